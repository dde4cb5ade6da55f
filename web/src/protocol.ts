import type { BhvitErrorCode } from "./errors.js";
import type { ModelInfo, NativeExplanation } from "./native.js";
import type { RawImage } from "./pixels.js";

/** What a model can be asked for an image, and what it answers. */
export interface Tasks {
  logits: Float32Array;
  probabilities: Float32Array;
  labels: Uint8Array;
  embed: Float32Array;
  explain: NativeExplanation;
}

export type TaskName = keyof Tasks;

/** A question to a model; `index` is the class that an explanation is about, by default the likeliest. */
export interface Question<Name extends TaskName = TaskName> {
  task: Name;
  image: RawImage;
  index?: number | undefined;
}

/** What a page sends its worker. */
export type Request =
  | { id: number; kind: "open"; file: Uint8Array; threads: number; wasm?: string }
  | { id: number; kind: "ask"; question: Question };

/** What the worker answers. */
export interface Answer {
  id: number;
  info?: ModelInfo;
  value?: Tasks[TaskName];
  error?: { code: BhvitErrorCode; message: string };
}
