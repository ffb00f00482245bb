import type { Type } from "./graph.ts";
import { typeName } from "./tensor.ts";

export type GraphErrorCode =
  | "shape"
  | "dtype"
  | "attribute"
  | "not-differentiable"
  | "unsupported"
  | "parameter"
  | "malformed"
  | "internal";

/** What op code throws while it infers; the caller of the op adds name, path and input types. */
export class InferenceError extends Error {
  override readonly name = "InferenceError";
  readonly code: GraphErrorCode;
  constructor(code: GraphErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** Throws an InferenceError unless `condition` holds. */
export function check(condition: unknown, code: GraphErrorCode, message: string): asserts condition {
  if (!condition) throw new InferenceError(code, message);
}

/** A message without control characters, which names from files may hold: it is one line. */
export const oneLine = (message: string): string => message.replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, "\ufffd");

/** Any fault of a graph: discriminated by `code`, with the op, the path of the layer and the types of the op's inputs. */
export class GraphError extends Error {
  override readonly name = "GraphError";
  readonly code: GraphErrorCode;
  readonly op: string;
  readonly path: string;
  readonly types: readonly Type[];
  constructor(
    code: GraphErrorCode,
    message: string,
    where: { op?: string; path?: string; types?: readonly Type[] } = {},
  ) {
    const { op = "", path = "", types = [] } = where;
    const place = op === "" ? "" : `${op}${path === "" ? "" : ` at ${path}`}: `;
    const given = types.length === 0 ? "" : ` (${types.map(typeName).join(", ")})`;
    super(oneLine(`${code === "internal" ? "internal: " : ""}${place}${message}${given}`));
    this.code = code;
    this.op = op;
    this.path = path;
    this.types = types;
  }
}
