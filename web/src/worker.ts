import { BhvitError } from "./errors.js";
import type { NativeModel } from "./native.js";
import type { Answer, Request } from "./protocol.js";
import { openModel } from "./threads.js";

let model: NativeModel | undefined;

function respond(answer: Answer, transfer: Transferable[] = []): void {
  postMessage(answer, { transfer });
}

async function handle(request: Request): Promise<void> {
  if (request.kind === "open") {
    model = await openModel(request.file, request.wasm, request.threads);
    respond({ id: request.id, info: model.info });
  } else if (model) {
    const value = model.answer(request.question);
    respond({ id: request.id, value }, [("heat" in value ? value.heat : value).buffer]);
  }
}

addEventListener("message", (event: MessageEvent<Request>) => {
  handle(event.data).catch((error: unknown) => {
    const code = error instanceof BhvitError ? error.code : "system";
    respond({ id: event.data.id, error: { code, message: error instanceof Error ? error.message : String(error) } });
  });
});
