/** Packed models (.bhv) in browsers, workers and Node. */

import { BhvitError } from "./errors.js";
import { bytesOf } from "./module.js";
import type { ModelInfo } from "./native.js";
import { pixelsOf, seenPart, type ImageInput, type Part } from "./pixels.js";
import type { TaskName, Tasks } from "./protocol.js";
import { threadCount } from "./threads.js";
import { openHere, openInWorker, WorkerError, type Runner } from "./runners.js";

export { BhvitError, type BhvitErrorCode } from "./errors.js";
export type { ModelInfo, Task } from "./native.js";
export { MAX_PIXELS, type ImageInput, type Part, type RawImage } from "./pixels.js";

/** Where a model comes from: an address, a picked file, or its bytes. */
export type ModelSource = string | URL | Blob | ArrayBuffer | Uint8Array;

export interface LoadOptions {
  /**
   * Whether the model runs in a worker of its own. By default it does where a worker can be started, so that pages stay
   * smooth, and in this thread elsewhere; with `true`, `load` fails where none can be started.
   */
  worker?: boolean;
  /** Address of the engine, for pages that keep it elsewhere than next to this script. */
  wasm?: string | URL;
  /**
   * Threads that run the model: where the page is cross-origin isolated, by default up to four, and in Node, by default
   * one. Elsewhere, and where helpers do not start, the model runs on one. The answers are the same.
   */
  threads?: number;
}

export interface Prediction {
  readonly index: number;
  readonly name: string;
  readonly probability: number;
}

/** The class of each pixel of an image: rows from the top. */
export interface Labels {
  readonly labels: Uint8Array;
  readonly width: number;
  readonly height: number;
}

/** A map of what an answer depends on. */
export interface Explanation extends Prediction {
  /** 0 to 1, the largest 1, for each pixel of the model's input, rows from the top. */
  readonly heat: Float32Array;
  readonly width: number;
  readonly height: number;
  /** The part of the image that the model sees, and the map covers. */
  readonly part: Part;
}

/** Workers of models that were dropped without `close`. */
const dropped = new FinalizationRegistry<Runner>((runner) => {
  runner.close();
});

/** A packed model, ready to run. */
export class Bhvit {
  readonly #runner: Runner;
  #closed = false;

  private constructor(runner: Runner) {
    this.#runner = runner;
    dropped.register(this, runner, this);
  }

  /** Loads a model. Throws BhvitError for a file that cannot be read or is no whole, undamaged model. */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<Bhvit> {
    const file = await readModel(source);
    const wasm = options.wasm === undefined ? undefined : String(options.wasm);
    const threads = threadCount(options.threads);
    if (options.worker ?? typeof Worker !== "undefined") {
      try {
        return new Bhvit(await openInWorker(file, wasm, threads));
      } catch (error) {
        if (options.worker || !(error instanceof WorkerError)) throw error;
      }
    }
    return new Bhvit(await openHere(file, wasm, threads));
  }

  /** What the model takes and does, and its classes in the order of the logits. */
  get info(): ModelInfo {
    return this.#runner.info;
  }

  /**
   * The logits of an image of any size, of a segmentation (classes, height, width) at the model's size: the same bits as
   * Python's for the same pixels.
   */
  async logits(image: ImageInput): Promise<Float32Array> {
    return this.#ask("logits", image);
  }

  /** The `top` likeliest classes, the likeliest first; probabilities are calibrated where the file is. */
  async classify(image: ImageInput, { top = 5 }: { top?: number } = {}): Promise<Prediction[]> {
    if (!Number.isInteger(top) || top < 1) {
      throw new BhvitError("argument", `top must be a whole number of at least 1, not ${String(top)}`);
    }
    const probabilities = await this.#ask("probabilities", image);
    return Array.from(probabilities, (probability, index) => this.#prediction(index, probability))
      .sort((a, b) => b.probability - a.probability)
      .slice(0, top);
  }

  /** The class of each pixel, at the image's own size. Throws BhvitError for a model that classifies. */
  async segment(image: ImageInput): Promise<Labels> {
    const pixels = await this.#pixels(image);
    const labels = await this.#runner.ask({ task: "labels", image: pixels });
    return { labels, width: pixels.width, height: pixels.height };
  }

  /**
   * The features that the classifier's last layer takes: images that look alike to the model have features with a large
   * cosine. Throws BhvitError for a model that labels pixels.
   */
  async embed(image: ImageInput): Promise<Float32Array> {
    return this.#ask("embed", image);
  }

  /**
   * What the answer depends on: how much the probability of a class, by default the likeliest, falls where a part of the
   * image is hidden. Runs the model some fifty times. Throws BhvitError for a model that labels pixels.
   */
  async explain(image: ImageInput, { index }: { index?: number } = {}): Promise<Explanation> {
    const { classes, width, height } = this.info;
    if (index !== undefined && !(Number.isInteger(index) && index >= 0 && index < classes.length)) {
      throw new BhvitError("argument", `index must be a class, 0 to ${classes.length - 1}, not ${String(index)}`);
    }
    const pixels = await this.#pixels(image);
    const found = await this.#runner.ask({ task: "explain", image: pixels, index });
    const part = seenPart(pixels, this.info);
    return { ...this.#prediction(found.index, found.probability), heat: found.heat, width, height, part };
  }

  /** Frees the model's memory and its worker. Calls that are still running are rejected. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    dropped.unregister(this);
    this.#runner.close();
  }

  async #ask<Name extends TaskName>(task: Name, image: ImageInput): Promise<Tasks[Name]> {
    return this.#runner.ask({ task, image: await this.#pixels(image) });
  }

  async #pixels(image: ImageInput): ReturnType<typeof pixelsOf> {
    if (this.#closed) throw new BhvitError("closed", "the model is closed; load it again");
    return pixelsOf(image);
  }

  #prediction(index: number, probability: number): Prediction {
    return { index, name: this.info.classes[index] ?? "", probability };
  }
}

async function readModel(source: ModelSource): Promise<Uint8Array> {
  if (source instanceof Uint8Array) return source;
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
  try {
    return await bytesOf(String(source));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new BhvitError("file", `cannot read ${String(source)}: ${reason}`, { cause: error });
  }
}
