/** What went wrong: `argument`, `file`, `format`, `memory`, `system` as in the C API, or `closed` for a closed model. */
export type BhvitErrorCode = "argument" | "file" | "format" | "memory" | "system" | "closed";

/** An error of the engine or of how it was called; `message` is one line. */
export class BhvitError extends Error {
  override readonly name = "BhvitError";

  constructor(
    readonly code: BhvitErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The code of a `bhvit_status`. */
export function codeOf(status: number): BhvitErrorCode {
  return (["system", "argument", "file", "format", "memory", "system"] as const)[status] ?? "system";
}
