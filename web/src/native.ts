import { BhvitError, codeOf } from "./errors.js";

/** What the WebAssembly module exports: the C API (`native/api/bhvit.h`) with pointers as numbers. */
interface Exports {
  memory: WebAssembly.Memory;
  _initialize?(): void;
  stackSave(): number;
  stackRestore(pointer: number): void;
  malloc(bytes: number): number;
  free(pointer: number): void;
  bhvit_error(): number;
  bhvit_open_memory(bytes: number, size: number, threads: number, isa: number, session: number): number;
  bhvit_close(session: number): void;
  bhvit_get_info(session: number, info: number): number;
  bhvit_class_name(session: number, index: number): number;
  bhvit_task(session: number): number;
  bhvit_preprocess(
    session: number, pixels: number, bytes: number, height: number, width: number, channels: number, image: number,
    floats: number,
  ): number;
  bhvit_run(session: number, count: number, images: number, imageFloats: number, logits: number, floats: number): number;
  bhvit_caught(exception: number): number;
}

/** An exception of C++ on its way out of WebAssembly. */
class NativeException extends Error {
  constructor(readonly pointer: number) {
    super("an exception of C++");
  }
}

/** Size in pixels and channels of what a model takes, and its classes. */
export interface ModelInfo {
  readonly width: number;
  readonly height: number;
  readonly channels: number;
  readonly classes: readonly string[];
}

const INFO_BYTES = 48; // bhvit_info: twelve fields of four bytes
const ENOSYS = 52;

/** A compiled module with one open model. Its memory is its own, and goes with it. */
export class NativeModel {
  readonly info: ModelInfo;
  readonly #exports: Exports;
  readonly #session: number;
  readonly #image: number;
  readonly #imageFloats: number;
  readonly #logits: number;
  #closed = false;

  /** Opens the bytes of a `.bhv` file. Throws BhvitError for a file that is damaged or needs too much memory. */
  constructor(module: WebAssembly.Module, file: Uint8Array) {
    this.#exports = instantiate(module);
    const opened = this.#allocate(4);
    this.#with(file, (pointer) => {
      this.#check(() => this.#exports.bhvit_open_memory(pointer, file.length, 1, 0, opened));
    });
    this.#session = this.#words(opened, 1)[0] ?? 0;
    if (this.#text(this.#exports.bhvit_task(this.#session)) !== "classify") {
      throw new BhvitError("argument", "the model labels pixels; this package runs classifications");
    }
    const info = this.#allocate(INFO_BYTES);
    this.#check(() => this.#exports.bhvit_get_info(this.#session, info));
    const [channels = 0, height = 0, width = 0, classes = 0, floats = 0] = this.#words(info, 5);
    const names = Array.from({ length: classes }, (_, index) =>
      this.#text(this.#exports.bhvit_class_name(this.#session, index)),
    );
    this.info = { width, height, channels, classes: names };
    this.#imageFloats = floats;
    this.#image = this.#allocate(4 * floats);
    this.#logits = this.#allocate(4 * classes);
  }

  /** Logits of a picture of any size: bytes (height, width, channels), RGBA or with the model's channels. */
  run(pixels: Uint8Array | Uint8ClampedArray, width: number, height: number): Float32Array {
    if (this.#closed) throw new BhvitError("closed", "the model is closed; load it again");
    const channels = pixels.length / (width * height);
    this.#with(pixels, (pointer) => {
      this.#check(() =>
        this.#exports.bhvit_preprocess(
          this.#session, pointer, pixels.length, height, width, channels, this.#image, this.#imageFloats,
        ),
      );
    });
    const classes = this.info.classes.length;
    this.#check(() =>
      this.#exports.bhvit_run(this.#session, 1, this.#image, this.#imageFloats, this.#logits, classes),
    );
    return new Float32Array(this.#exports.memory.buffer, this.#logits, classes).slice();
  }

  close(): void {
    if (!this.#closed) this.#exports.bhvit_close(this.#session);
    this.#closed = true;
  }

  #check(call: () => number): void {
    const stack = this.#exports.stackSave();
    let status: number;
    try {
      status = call();
    } catch (error) {
      if (!(error instanceof NativeException)) throw error;
      this.#exports.stackRestore(stack);
      status = this.#exports.bhvit_caught(error.pointer);
    }
    if (status !== 0) throw new BhvitError(codeOf(status), this.#text(this.#exports.bhvit_error()));
  }

  #allocate(bytes: number): number {
    const pointer = this.#exports.malloc(bytes);
    if (pointer === 0) throw new BhvitError("memory", `not enough memory for ${bytes} bytes`);
    return pointer;
  }

  #with(bytes: Uint8Array | Uint8ClampedArray, body: (pointer: number) => void): void {
    const pointer = this.#allocate(bytes.length || 1);
    try {
      new Uint8Array(this.#exports.memory.buffer).set(bytes, pointer);
      body(pointer);
    } finally {
      this.#exports.free(pointer);
    }
  }

  #words(pointer: number, count: number): Uint32Array {
    return new Uint32Array(this.#exports.memory.buffer, pointer, count);
  }

  #text(pointer: number): string {
    const bytes = new Uint8Array(this.#exports.memory.buffer, pointer);
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
  }
}

/** The module with what it imports. It reads no files and prints nothing; whatever else it asks for is refused. */
function instantiate(module: WebAssembly.Module): Exports {
  const loaded: { exports?: Exports } = {};
  const memory = (): ArrayBuffer => {
    if (!loaded.exports) throw new BhvitError("system", "the engine called out before it was loaded");
    return loaded.exports.memory.buffer;
  };
  const known: Record<string, WebAssembly.ImportValue> = {
    bhvit_throw: (pointer: number) => {
      throw new NativeException(pointer);
    },
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
  };
  const imports: WebAssembly.Imports = {};
  for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    (imports[from] ??= {})[name] = known[name] ?? (() => ENOSYS);
  }
  const instance = new WebAssembly.Instance(module, imports);
  const exports = instance.exports as unknown as Exports;
  loaded.exports = exports;
  exports._initialize?.();
  return exports;
}
