// The script of a helper's worker: it takes parts of the work of an open model, whose memory it shares.

import { importsOf } from "./imports.js";
import type { Job } from "./native.js";

interface Exports {
  stackRestore(pointer: number): void;
  bhvit_serve(session: number, thread: number): void;
}

function serve({ module, memory, session, thread, stack }: Job): void {
  const instance = new WebAssembly.Instance(module, importsOf(module, () => memory.buffer, memory));
  const exports = instance.exports as unknown as Exports;
  exports.stackRestore(stack);
  exports.bhvit_serve(session, thread); // until the worker is ended
}

if (typeof addEventListener === "function") {
  addEventListener("message", (event: MessageEvent<Job>) => {
    serve(event.data);
  });
} else {
  const { parentPort } = await import("node:worker_threads");
  parentPort?.once("message", serve);
}
