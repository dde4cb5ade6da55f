/** A module of a single function that uses an instruction of relaxed SIMD: valid where an engine has it. */
export const RELAXED_SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 123, 1, 123, 3, 2, 1, 0, 10, 11, 1, 9, 0, 32, 0, 32, 0, 253, 128, 2, 11,
]);

const compiled = new Map<string, Promise<WebAssembly.Module>>();

/** The engine for this machine, with or without threads, or the one at `url`; compiled once for all models. */
export function engine(url?: string | URL, threads = false): Promise<WebAssembly.Module> {
  const relaxed = WebAssembly.validate(RELAXED_SIMD);
  const name = `bhvit${threads ? ".threads" : ""}${relaxed ? ".relaxed" : ""}.wasm`;
  const address = String(url ?? new URL(name, import.meta.url));
  let module = compiled.get(address);
  if (!module) {
    module = bytesOf(address).then((bytes) => WebAssembly.compile(bytes as BufferSource));
    module.catch(() => compiled.delete(address)); // the network may be back for the next call
    compiled.set(address, module);
  }
  return module;
}

/** What is at an address; in Node also a file's. */
export async function bytesOf(address: string): Promise<Uint8Array> {
  if (address.startsWith("file:") && typeof process !== "undefined") {
    const { readFile } = await import("node:fs/promises");
    return readFile(new URL(address));
  }
  const response = await fetch(address);
  if (!response.ok) throw new Error(`HTTP status ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}
