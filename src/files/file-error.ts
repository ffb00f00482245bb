import { RequestError, RunError } from "../errors.ts";

/** Faults of the request, by system error code: what to say of the path and what to do about it. */
const requestFaults: ReadonlyMap<string, string> = new Map([
  ["ENOENT", "it does not exist; check the path"],
  ["EACCES", "permission denied; choose a path that you may use"],
  ["EPERM", "the system does not allow it; choose a path that you may use"],
  ["EROFS", "it lies on a read-only file system; choose another place"],
  ["EISDIR", "it is a folder; name a file"],
  ["ERR_FS_EISDIR", "it is a folder; name a file"],
  ["ENOTDIR", "a part of the path is a file, not a folder; check the path"],
  ["ENOTEMPTY", "the folder is not empty; choose another name or empty it"],
  ["ENAMETOOLONG", "the name is too long; choose a shorter one"],
  ["EEXIST", "it exists already; choose another name or remove it"],
  ["ELOOP", "its symbolic links form a loop; check the path"],
  ["ENXIO", "it is a device or a socket, not a file; check the path"],
  ["ENODEV", "it is a device or a socket, not a file; check the path"],
  ["ESPIPE", "it is a pipe, not a file; write it to a file first"],
  ["ETXTBSY", "a program that is running holds it; end that first"],
  ["EBUSY", "another program holds it; end that first"],
]);

/** Faults of the machine. */
const runFaults: ReadonlyMap<string, string> = new Map([
  ["ENOSPC", "the disk is full; free some space"],
  ["EDQUOT", "the disk quota is used up; free some space"],
  ["EFBIG", "it grew too large for the file system; use another disk"],
  ["EMFILE", "too many files are open; raise the limit (ulimit -n 1024)"],
  ["ENFILE", "too many files are open on this machine; end other programs"],
  ["ENOMEM", "memory is used up; end other programs or use a machine with more"],
  ["EIO", "the disk reports an input/output error; check the disk"],
  ["ESTALE", "the network file system lost it; run again"],
  ["ETIMEDOUT", "the network file system does not answer; run again"],
]);

/**
 * Refuses a path with a replacement character: Node puts it where bytes of a name are no UTF-8, so that another file
 * than the named one would be read or written.
 * @throws RequestError
 */
export const checkPath = (path: string): void => {
  if (path.includes("\ufffd"))
    throw new RequestError(`the path ${path} is not UTF-8 (or holds the character U+FFFD); rename it`);
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
  if (code === "ENOENT" && path.includes("\ufffd"))
    return new RequestError(`cannot ${verb} ${path}: its name is not UTF-8; rename it`, { cause: error });
  const request = requestFaults.get(code);
  if (request !== undefined) return new RequestError(`cannot ${verb} ${path}: ${request}`, { cause: error });
  const run = runFaults.get(code);
  if (run !== undefined) return new RunError(`cannot ${verb} ${path}: ${run}`, { cause: error });
  return error;
};
