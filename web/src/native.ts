import { BhvitError, codeOf } from "./errors.js";
import { importsOf, NativeException } from "./imports.js";
import { occlusion } from "./occlusion.js";
import type { RawImage } from "./pixels.js";
import type { Question, TaskName, Tasks } from "./protocol.js";

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
  bhvit_probabilities(
    session: number, count: number, logits: number, floats: number, probabilities: number, probabilityFloats: number,
  ): number;
  bhvit_segment(session: number, count: number, images: number, imageFloats: number, labels: number, bytes: number): number;
  bhvit_resize_labels(
    labels: number, bytes: number, height: number, width: number, resized: number, resizedBytes: number,
    resizedHeight: number, resizedWidth: number,
  ): number;
  bhvit_feature_count(session: number): number;
  bhvit_embed(session: number, count: number, images: number, imageFloats: number, features: number, floats: number): number;
  bhvit_caught(exception: number): number;
  bhvit_serve(session: number, thread: number): void;
}

/** What a model does: it names what is in an image, or labels each pixel. */
export type Task = "classify" | "segment";

/** What a model takes and does. */
export interface ModelInfo {
  readonly task: Task;
  /** Of what the model takes; images of any size are resized. */
  readonly width: number;
  readonly height: number;
  readonly channels: number;
  /** What images are resized to just cover, keeping their aspect, before their centre is cropped. */
  readonly coverWidth: number;
  readonly coverHeight: number;
  readonly classes: readonly string[];
  /** Length of what `embed` gives; 0 where the model labels pixels. */
  readonly features: number;
  /** Threads that run it, this one included. */
  readonly threads: number;
}

/** What a helper of an engine with threads is told. */
export interface Job {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  session: number;
  thread: number;
  /** The upper end of the helper's stack. */
  stack: number;
}

/** A map of what an answer depends on, at the model's size. */
export interface NativeExplanation {
  readonly index: number;
  readonly probability: number;
  readonly heat: Float32Array;
}

const INFO_BYTES = 48; // bhvit_info: twelve fields of four bytes
const STACK_BYTES = 1 << 18; // of a helper
const PAGES = { initial: 64, maximum: 32768 }; // of shared memory, as cmake/web.cmake says

/** A compiled module with one open model. Its memory is its own, and goes with it. */
export class NativeModel {
  readonly info: ModelInfo;
  readonly #exports: Exports;
  readonly #session: number;
  readonly #image: number; // what the model takes
  readonly #imageFloats: number;
  readonly #module: WebAssembly.Module;
  #stop: () => void = () => undefined;
  #closed = false;

  /** Opens the bytes of a `.bhv` file; several threads need an engine with threads, and `jobs`. Throws BhvitError for a file that is damaged or needs too much memory. */
  constructor(module: WebAssembly.Module, file: Uint8Array, threads = 1) {
    this.#module = module;
    this.#exports = instantiate(module);
    const opened = this.#allocate(4);
    this.#with(file, (pointer) => {
      this.#check(() => this.#exports.bhvit_open_memory(pointer, file.length, threads, 0, opened));
    });
    this.#session = this.#words(opened, 1)[0] ?? 0;
    const task = this.#text(this.#exports.bhvit_task(this.#session)) as Task;
    const info = this.#allocate(INFO_BYTES);
    this.#check(() => this.#exports.bhvit_get_info(this.#session, info));
    const [channels = 0, height = 0, width = 0, classes = 0, floats = 0, coverHeight = 0, coverWidth = 0] =
      this.#words(info, 7);
    const names = Array.from({ length: classes }, (_, index) =>
      this.#text(this.#exports.bhvit_class_name(this.#session, index)),
    );
    const features = task === "segment" ? 0 : this.#exports.bhvit_feature_count(this.#session);
    this.info = { task, width, height, channels, coverWidth, coverHeight, classes: names, features, threads };
    this.#imageFloats = floats;
    this.#image = this.#allocate(4 * floats);
  }

  /** Answers a question about an image of any size: bytes (height, width, channels), RGBA or with the model's channels. */
  answer<Name extends TaskName>(question: Question<Name>): Tasks[Name] {
    if (this.#closed) throw new BhvitError("closed", "the model is closed; load it again");
    const { task, image, index } = question;
    const answers: { [Task in TaskName]: () => Tasks[Task] } = {
      logits: () => this.#logits(),
      probabilities: () => this.#probabilities(),
      labels: () => this.#labels(image),
      embed: () => this.#embed(),
      explain: () => this.#explain(index),
    };
    if (this.info.task === "segment" && (task === "probabilities" || task === "explain")) {
      throw new BhvitError("argument", "the model labels pixels: segment shows what it takes them for");
    }
    this.#preprocess(image);
    return answers[task]();
  }

  /** What each of its helpers is told. */
  jobs(): Job[] {
    return Array.from({ length: this.info.threads - 1 }, (_, i) => {
      const stack = this.#allocate(STACK_BYTES) + STACK_BYTES - 16;
      return {
        module: this.#module, memory: this.#exports.memory, session: this.#session, thread: i + 1,
        stack: stack - (stack % 16),
      };
    });
  }

  /** `stop` ends the helpers, before the model is closed. */
  stopWith(stop: () => void): void {
    this.#stop = stop;
  }

  close(): void {
    if (!this.#closed) {
      this.#stop();
      // Helpers may not have ended yet: the memory that they share goes as a whole.
      if (this.info.threads === 1) this.#exports.bhvit_close(this.#session);
    }
    this.#closed = true;
  }

  #preprocess({ data, width, height }: RawImage): void {
    const channels = data.length / (width * height);
    this.#with(data, (pointer) => {
      this.#check(() =>
        this.#exports.bhvit_preprocess(
          this.#session, pointer, data.length, height, width, channels, this.#image, this.#imageFloats,
        ),
      );
    });
  }

  #logits(): Float32Array {
    const { task, width, height, classes } = this.info;
    return this.#result(classes.length * (task === "segment" ? width * height : 1), (logits, count) =>
      this.#exports.bhvit_run(this.#session, 1, this.#image, this.#imageFloats, logits, count),
    );
  }

  #probabilities(): Float32Array {
    return this.#result(this.info.classes.length, (logits, count) =>
      this.#exports.bhvit_run(this.#session, 1, this.#image, this.#imageFloats, logits, count) ||
      this.#exports.bhvit_probabilities(this.#session, 1, logits, count, logits, count),
    );
  }

  #labels({ width, height }: RawImage): Uint8Array {
    const own = this.info.width * this.info.height;
    const [labels, resized] = [this.#allocate(own), this.#allocate(width * height)];
    try {
      this.#check(() =>
        this.#exports.bhvit_segment(this.#session, 1, this.#image, this.#imageFloats, labels, own),
      );
      this.#check(() =>
        this.#exports.bhvit_resize_labels(
          labels, own, this.info.height, this.info.width, resized, width * height, height, width,
        ),
      );
      return new Uint8Array(this.#exports.memory.buffer, resized, width * height).slice();
    } finally {
      this.#exports.free(labels);
      this.#exports.free(resized);
    }
  }

  #embed(): Float32Array {
    return this.#result(this.info.features, (features, count) =>
      this.#exports.bhvit_embed(this.#session, 1, this.#image, this.#imageFloats, features, count),
    );
  }

  #explain(index: number | undefined): NativeExplanation {
    const { channels, height, width } = this.info;
    const image = this.#floats(this.#image, this.#imageFloats);
    const probabilities = this.#probabilities();
    const chosen = index ?? probabilities.indexOf(Math.max(...probabilities));
    // The map is about the network itself, as in Python: without the temperature of a calibrated file.
    const heat = occlusion(image, [channels, height, width], (hidden) => {
      new Float32Array(this.#exports.memory.buffer).set(hidden, this.#image / 4);
      return softmax(this.#logits())[chosen] ?? 0;
    });
    const largest = Math.max(heat.reduce((a, b) => Math.max(a, b), 0), 1e-30);
    return { index: chosen, probability: probabilities[chosen] ?? 0, heat: heat.map((value) => value / largest) };
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
    const pointer = this.#exports.malloc(bytes || 1);
    if (pointer === 0) throw new BhvitError("memory", `not enough memory for ${bytes} bytes`);
    return pointer;
  }

  #with(bytes: Uint8Array | Uint8ClampedArray, body: (pointer: number) => void): void {
    const pointer = this.#allocate(bytes.length);
    try {
      new Uint8Array(this.#exports.memory.buffer).set(bytes, pointer);
      body(pointer);
    } finally {
      this.#exports.free(pointer);
    }
  }

  /** So many floats, as a call writes them. */
  #result(count: number, call: (pointer: number, count: number) => number): Float32Array {
    const pointer = this.#allocate(4 * count);
    try {
      this.#check(() => call(pointer, count));
      return this.#floats(pointer, count);
    } finally {
      this.#exports.free(pointer);
    }
  }

  #words(pointer: number, count: number): Uint32Array {
    return new Uint32Array(this.#exports.memory.buffer, pointer, count);
  }

  #floats(pointer: number, count: number): Float32Array {
    return new Float32Array(this.#exports.memory.buffer, pointer, count).slice();
  }

  #text(pointer: number): string {
    const bytes = new Uint8Array(this.#exports.memory.buffer, pointer);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0))); // decoders take no shared memory
  }
}

function softmax(logits: Float32Array): number[] {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const odds = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = odds.reduce((a, b) => a + b, 0);
  return odds.map((value) => value / sum);
}

/** The module with what it imports. */
function instantiate(module: WebAssembly.Module): Exports {
  const loaded: { exports?: Exports } = {};
  const shared = WebAssembly.Module.imports(module).some(({ kind }) => kind === "memory");
  const memory = shared ? new WebAssembly.Memory({ ...PAGES, shared }) : undefined;
  const imports = importsOf(module, () => {
    if (!loaded.exports) throw new BhvitError("system", "the engine called out before it was loaded");
    return loaded.exports.memory.buffer;
  }, memory);
  const { exports: own } = new WebAssembly.Instance(module, imports);
  const exports = { ...own, ...(memory ? { memory } : {}) } as unknown as Exports;
  loaded.exports = exports;
  exports._initialize?.();
  return exports;
}
