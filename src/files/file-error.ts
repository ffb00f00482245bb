import { RequestError, RunError } from "../errors.ts";

/** Faults of the request, by system error code: what to say of the path and what to do about it. */
const requestFaults: Record<string, string> = {
  ENOENT: "it does not exist; check the path",
  EACCES: "permission denied; choose a path that you may use",
  EPERM: "the system does not allow it; choose a path that you may use",
  EROFS: "it lies on a read-only file system; choose another place",
  EISDIR: "it is a folder; name a file",
  ENOTDIR: "a part of the path is a file, not a folder; check the path",
  ENAMETOOLONG: "the name is too long; choose a shorter one",
  EEXIST: "it exists already; choose another name or remove it",
  ELOOP: "its symbolic links form a loop; check the path",
};

/** Faults of the machine. */
const runFaults: Record<string, string> = {
  ENOSPC: "the disk is full; free some space",
  EDQUOT: "the disk quota is used up; free some space",
  EFBIG: "it grew too large for the file system; use another disk",
  EMFILE: "too many files are open; raise the limit (ulimit -n)",
  EIO: "the disk reports an input/output error; check the disk",
};

/**
 * What to throw for a failed file operation: a RequestError where another path helps, as with a file that is no ONNX model, a
 * RunError where the machine is at fault, the error itself where it is neither the file's nor the file system's.
 *
 * @param verb what was tried: "read", "write", "open", …
 */
export const fileError = (error: unknown, verb: string, path: string): unknown => {
  const { code = "", name, message } = (error ?? {}) as Partial<NodeJS.ErrnoException>;
  if (name === "GraphError" && code !== "internal")
    return new RequestError(`cannot ${verb} ${path}: ${message}`, { cause: error });
  const request = requestFaults[code];
  if (request !== undefined) return new RequestError(`cannot ${verb} ${path}: ${request}`, { cause: error });
  const run = runFaults[code];
  if (run !== undefined) return new RunError(`cannot ${verb} ${path}: ${run}`, { cause: error });
  return error;
};
