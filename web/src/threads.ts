import { BhvitError } from "./errors.js";
import { engine } from "./module.js";
import { NativeModel, type Job } from "./native.js";

/** Threads that a model gets by itself, at most: more seldom pay for one image at a time. */
const MOST = 4;

/** So many threads as a model can have here: one where nothing shares memory, as in pages that are not isolated. */
export function threadCount(wanted: number | undefined): number {
  if (wanted !== undefined && !(Number.isInteger(wanted) && wanted >= 1 && wanted <= 64)) {
    throw new BhvitError("argument", `threads must be a whole number from 1 to 64, not ${String(wanted)}`);
  }
  if (typeof crossOriginIsolated === "undefined") return wanted ?? 1; // Node
  return crossOriginIsolated ? (wanted ?? Math.min(MOST, navigator.hardwareConcurrency)) : 1;
}

/** Opens a model in this thread, with helpers where there can be some: without them the answers are the same. */
export async function openModel(file: Uint8Array, wasm: string | undefined, threads: number): Promise<NativeModel> {
  if (threads > 1 && wasm === undefined) {
    try {
      const model = new NativeModel(await engine(undefined, true), file, threads);
      model.stopWith(await startThreads(model.jobs()));
      return model;
    } catch (error) {
      if (error instanceof BhvitError && error.code === "format") throw error;
    }
  }
  return new NativeModel(await engine(wasm), file);
}

/** Starts a worker for each job; returns what ends them. One that does not start leaves its part to the others. */
async function startThreads(jobs: readonly Job[]): Promise<() => void> {
  const script = new URL("thread.js", import.meta.url);
  const workers: { terminate(): unknown }[] = [];
  for (const job of jobs) {
    try {
      if (typeof Worker === "undefined") {
        const { Worker: NodeWorker } = await import("node:worker_threads");
        const worker = new NodeWorker(script);
        worker.on("error", () => undefined);
        worker.unref(); // Node may end
        worker.postMessage(job);
        workers.push(worker);
      } else {
        const worker = new Worker(script, { type: "module" });
        worker.postMessage(job);
        workers.push(worker);
      }
    } catch {
      break;
    }
  }
  return () => {
    for (const worker of workers) worker.terminate();
  };
}
