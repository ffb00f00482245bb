import { oneLine } from "../graphs/onnx/error.ts";

/** The request is wrong: one sentence that names the setting, file or node, and the remedy. Exit code 2. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  constructor(message: string, options?: ErrorOptions) {
    super(oneLine(message), options);
  }
}

/** The run failed through no fault of the request (a loss that is not finite, an engine that failed). Exit code 1. */
export class RunError extends Error {
  override readonly name = "RunError";
  constructor(message: string, options?: ErrorOptions) {
    super(oneLine(message), options);
  }
}

/** Whether an error is a sentence for people, not a fault of this program. */
export const isOurs = (error: unknown): error is Error =>
  error instanceof Error && ["RequestError", "RunError", "GraphError"].includes(error.name);

/** 2 where the request is wrong, 1 where the run failed. Graphs are refused for what the request asks of them. */
export const exitCode = (error: unknown): number => {
  if (error instanceof RequestError) return 2;
  const { name, code } = error as { name?: unknown; code?: unknown };
  return name === "GraphError" && code !== "internal" ? 2 : 1;
};

/** Faults as part of a sentence: the first of them, and how many more there are. */
export const listed = (faults: readonly string[], most = 8): string =>
  faults.length <= most + 1
    ? faults.join("; ")
    : `${faults.slice(0, most).join("; ")}; and ${faults.length - most} more`;
