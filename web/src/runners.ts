import { BhvitError } from "./errors.js";
import { engine } from "./module.js";
import { NativeModel, type ModelInfo } from "./native.js";
import type { RawImage } from "./pixels.js";
import type { Answer, Request } from "./protocol.js";

/** Runs an open model, here or in a worker. */
export interface Runner {
  readonly info: ModelInfo;
  run(image: RawImage): Promise<Float32Array>;
  close(): void;
}

/** A runner in this thread. */
export async function openHere(file: Uint8Array, wasm: string | undefined): Promise<Runner> {
  const model = new NativeModel(await engine(wasm), file);
  return {
    info: model.info,
    run: (image) => Promise.resolve().then(() => model.run(image.data, image.width, image.height)),
    close: () => {
      model.close();
    },
  };
}

type Body<T> = T extends unknown ? Omit<T, "id"> : never;

/** A runner in a worker of its own, which ends with it. */
export async function openInWorker(file: Uint8Array, wasm: string | undefined): Promise<Runner> {
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const waiting = new Map<number, { resolve: (answer: Answer) => void; reject: (error: Error) => void }>();
  let last = 0;
  const stop = (error: BhvitError): void => {
    worker.terminate();
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  worker.addEventListener("message", (event: MessageEvent<Answer>) => {
    const { id, error } = event.data;
    const entry = waiting.get(id);
    waiting.delete(id);
    if (error) entry?.reject(new BhvitError(error.code, error.message));
    else entry?.resolve(event.data);
  });
  worker.addEventListener("error", (event) => {
    stop(new BhvitError("system", `the worker stopped: ${event.message || "it could not be loaded"}`));
  });
  const ask = (body: Body<Request>): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const id = ++last;
      waiting.set(id, { resolve, reject });
      worker.postMessage({ ...body, id });
    });
  try {
    const { info } = await ask({ kind: "open", file, ...(wasm === undefined ? {} : { wasm }) });
    if (!info) throw new BhvitError("system", "the worker did not describe the model");
    return {
      info,
      run: async ({ data, width, height }) => {
        const { logits } = await ask({ kind: "run", data, width, height });
        if (!logits) throw new BhvitError("system", "the worker gave no logits");
        return logits;
      },
      close: () => {
        stop(new BhvitError("closed", "the model was closed"));
      },
    };
  } catch (error) {
    worker.terminate();
    throw error;
  }
}
