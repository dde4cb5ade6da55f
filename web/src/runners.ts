import { BhvitError } from "./errors.js";
import type { ModelInfo } from "./native.js";
import type { Answer, Question, Request, TaskName, Tasks } from "./protocol.js";
import { openModel } from "./threads.js";

/** Runs an open model, here or in a worker. */
export interface Runner {
  readonly info: ModelInfo;
  ask<Name extends TaskName>(question: Question<Name>): Promise<Tasks[Name]>;
  close(): void;
}

/** A worker that cannot be started, such as one of another origin. */
export class WorkerError extends BhvitError {
  constructor(cause: unknown) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const hint = "serve the package from the page's own origin, or pass { worker: false }";
    super("system", `the worker does not start (${reason}): ${hint}`, { cause });
  }
}

/** A runner in this thread, and in helpers of it. */
export async function openHere(file: Uint8Array, wasm: string | undefined, threads: number): Promise<Runner> {
  // A page's own thread may not wait for others.
  const model = await openModel(file, wasm, typeof document === "undefined" ? threads : 1);
  return {
    info: model.info,
    ask: (question) => Promise.resolve().then(() => model.answer(question)),
    close: () => {
      model.close();
    },
  };
}

type Body<T> = T extends unknown ? Omit<T, "id"> : never;

/** A runner in a worker of its own, which ends with it. Throws WorkerError where there can be none. */
export async function openInWorker(file: Uint8Array, wasm: string | undefined, threads: number): Promise<Runner> {
  let worker: Worker;
  try {
    worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  } catch (error) {
    throw new WorkerError(error);
  }
  const waiting = new Map<number, { resolve: (answer: Answer) => void; reject: (error: Error) => void }>();
  let last = 0;
  let started = false;
  let ended: BhvitError | undefined;
  const stop = (error: BhvitError): void => {
    ended ??= error;
    worker.terminate();
    for (const { reject } of waiting.values()) reject(ended);
    waiting.clear();
  };
  worker.addEventListener("message", (event: MessageEvent<Answer>) => {
    started = true;
    const { id, error } = event.data;
    const entry = waiting.get(id);
    waiting.delete(id);
    if (error) entry?.reject(new BhvitError(error.code, error.message));
    else entry?.resolve(event.data);
  });
  worker.addEventListener("error", (event) => {
    const reason = event.message || "its script cannot be loaded";
    stop(started ? new BhvitError("system", `the worker stopped: ${reason}`) : new WorkerError(reason));
  });
  const send = (body: Body<Request>): Promise<Answer> =>
    new Promise((resolve, reject) => {
      if (ended) {
        reject(ended);
        return;
      }
      const id = ++last;
      waiting.set(id, { resolve, reject });
      worker.postMessage({ ...body, id });
    });
  try {
    const { info } = await send({ kind: "open", file, threads, ...(wasm === undefined ? {} : { wasm }) });
    if (!info) throw new BhvitError("system", "the worker did not describe the model");
    return {
      info,
      ask: async <Name extends TaskName>(question: Question<Name>) => {
        const { data, width, height } = question.image; // an ImageData of its own kind would not be sent as fast
        const { value } = await send({ kind: "ask", question: { ...question, image: { data, width, height } } });
        return value as Tasks[Name];
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
