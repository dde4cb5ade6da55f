import { BhvitError } from "./errors.js";

/** An exception of C++ on its way out of WebAssembly. */
export class NativeException extends Error {
  constructor(readonly pointer: number) {
    super("an exception of C++");
  }
}

const ENOSYS = 52;

/**
 * What a module imports. `memory` gives its memory once there is one, and `shared` is that of an engine with threads. Throws
 * BhvitError for what is not known here.
 */
export function importsOf(
  module: WebAssembly.Module, memory: () => ArrayBuffer, shared?: WebAssembly.Memory,
): WebAssembly.Imports {
  // The engine reads no files and prints nothing: the C library asks for these, and nothing calls them.
  const absent = (): number => ENOSYS;
  const known: Record<string, WebAssembly.ImportValue> = {
    bhvit_throw: (pointer: number) => {
      throw new NativeException(pointer);
    },
    bhvit_number: (text: number, size: number) =>
      Number(new TextDecoder().decode(new Uint8Array(memory(), text, size).slice())), // decoders take no shared memory
    emscripten_notify_memory_growth: () => undefined,
    clock_time_get: (_clock: number, _low: number, _high: number, result: number) => {
      new DataView(memory()).setBigUint64(result, BigInt(Math.round(performance.now() * 1e6)), true);
      return 0;
    },
    environ_sizes_get: (count: number, bytes: number) => {
      const view = new DataView(memory());
      view.setUint32(count, 0, true);
      view.setUint32(bytes, 0, true);
      return 0;
    },
    environ_get: () => 0,
    proc_exit: () => {
      throw new BhvitError("system", "the engine ended itself");
    },
    fd_close: absent,
    fd_read: absent,
    fd_seek: absent,
    fd_write: absent,
    ...(shared ? { memory: shared } : {}),
  };
  const imports: WebAssembly.Imports = {};
  for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    const value = known[name];
    if (value === undefined) {
      throw new BhvitError("system", `the engine asks for ${from}.${name}: it is not the one of this version of bhvit`);
    }
    (imports[from] ??= {})[name] = value;
  }
  return imports;
}
