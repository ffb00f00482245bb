/** The request is wrong: one sentence that names the setting, file or node, and the remedy. Exit code 2. */
export class RequestError extends Error {
  override readonly name = "RequestError";
}

/** The run failed through no fault of the request (a loss that is not finite, an engine that failed). Exit code 1. */
export class RunError extends Error {
  override readonly name = "RunError";
}
