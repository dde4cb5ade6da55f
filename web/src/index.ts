/** Packed models (.bhv) in browsers, workers and Node. */

import { BhvitError } from "./errors.js";
import { bytesOf } from "./module.js";
import type { ModelInfo } from "./native.js";
import { pixelsOf, type ImageInput } from "./pixels.js";
import { openHere, openInWorker, type Runner } from "./runners.js";

export { BhvitError, type BhvitErrorCode } from "./errors.js";
export type { ModelInfo } from "./native.js";
export { MAX_PIXELS, type ImageInput, type RawImage } from "./pixels.js";

/** Where a model comes from: an address, a picked file, or its bytes. */
export type ModelSource = string | URL | Blob | ArrayBuffer | Uint8Array;

export interface LoadOptions {
  /** Whether the model runs in a worker of its own: by default where there are workers, so that pages stay smooth. */
  worker?: boolean;
  /** Address of the engine, for pages that keep it elsewhere than next to this script. */
  wasm?: string | URL;
}

export interface Prediction {
  readonly index: number;
  readonly name: string;
  readonly probability: number;
}

/** Workers of models that were dropped without `close`. */
const dropped = new FinalizationRegistry<Runner>((runner) => {
  runner.close();
});

/** A packed model, ready to run. Calls are answered in the order in which they are made. */
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
    const open = (options.worker ?? typeof Worker !== "undefined") ? openInWorker : openHere;
    return new Bhvit(await open(file, wasm));
  }

  /** What the model takes, and its classes in the order of the logits. */
  get info(): ModelInfo {
    return this.#runner.info;
  }

  /** The logits of an image of any size: the same bits as Python's for the same pixels. */
  async logits(image: ImageInput): Promise<Float32Array> {
    if (this.#closed) throw new BhvitError("closed", "the model is closed; load it again");
    return this.#runner.run(await pixelsOf(image));
  }

  /** The `top` likeliest classes, the likeliest first. */
  async classify(image: ImageInput, { top = 5 }: { top?: number } = {}): Promise<Prediction[]> {
    if (!Number.isInteger(top) || top < 1) {
      throw new BhvitError("argument", `top must be a whole number of at least 1, not ${String(top)}`);
    }
    const logits = await this.logits(image);
    const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const odds = Array.from(logits, (logit) => Math.exp(logit - largest));
    const sum = odds.reduce((a, b) => a + b, 0);
    return odds
      .map((value, index) => ({ index, name: this.info.classes[index] ?? "", probability: value / sum }))
      .sort((a, b) => b.probability - a.probability)
      .slice(0, top);
  }

  /** Frees the model's memory and its worker. Calls that are still running are rejected. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    dropped.unregister(this);
    this.#runner.close();
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
