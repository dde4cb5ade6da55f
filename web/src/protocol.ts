import type { BhvitErrorCode } from "./errors.js";
import type { ModelInfo } from "./native.js";

/** What a page sends its worker. */
export type Request =
  | { id: number; kind: "open"; file: Uint8Array; wasm?: string }
  | { id: number; kind: "run"; data: Uint8Array | Uint8ClampedArray; width: number; height: number };

/** What the worker answers. */
export interface Answer {
  id: number;
  info?: ModelInfo;
  logits?: Float32Array;
  error?: { code: BhvitErrorCode; message: string };
}
