/** Reads numpy's .npy files of whole numbers: what CIFAR-10-C is published as. */
import { type FileHandle, open } from "node:fs/promises";
import { RequestError } from "../errors.ts";
import { fileError } from "./file-error.ts";
import { readExactly } from "./read-exactly.ts";
import { misfit, sniff, sniffedBytes } from "./sniff.ts";

export interface Npy {
  readonly shape: readonly number[];
  /**
   * Reads rows (entries of the first axis) `begin` to `end`.
   * @throws RequestError where a number is not of 0 to 255
   */
  rows(begin: number, end: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

interface Header {
  /** As numpy spells it: `|u1`, `<i8`. */
  readonly descr: string;
  readonly fortran: boolean;
  readonly shape: readonly number[];
}

const LONGEST_HEADER = 2 ** 16;

const fault = (path: string, what: string): RequestError =>
  new RequestError(`${path} is not a .npy file of whole numbers from 0 to 255: ${what}`);

/**
 * The header, a Python dictionary of three keys, in any order and spelling.
 * @throws Error where it is something else
 */
export const parseNpyHeader = (text: string): Header => {
  const string = String.raw`'([^'\\]*)'|"([^"\\]*)"`;
  const number = String.raw`\d+`;
  const value = String.raw`${string}|(True|False)|(\(\s*(?:${number}L?\s*(?:,\s*|(?=\))))*\))|(\[.*\])`;
  const pair = new RegExp(String.raw`^\s*(?:${string})\s*:\s*(?:${value})\s*`);
  const found = new Map<string, RegExpExecArray>();
  let rest = text.trim();
  if (!rest.startsWith("{") || !rest.endsWith("}")) throw new Error("its header is no dictionary");
  rest = rest.slice(1, -1);
  while (rest.trim() !== "") {
    const match = pair.exec(rest);
    if (match === null) throw new Error("its header is damaged");
    const key = match[1] ?? match[2] ?? "";
    if (found.has(key)) throw new Error(`its header has ${key} twice`);
    found.set(key, match);
    rest = rest.slice(match[0].length);
    if (rest.startsWith(",")) rest = rest.slice(1);
    else if (rest.trim() !== "") throw new Error("its header is damaged");
  }
  const [descr, order, shape] = ["descr", "fortran_order", "shape"].map((key) => found.get(key));
  if (found.size !== 3 || order?.[5] === undefined || shape?.[6] === undefined || descr === undefined)
    throw new Error("its header lacks descr, fortran_order or shape");
  if (descr[7] !== undefined) throw new Error("it holds records of several fields; save one array of numbers");
  const dims = [...shape[6].matchAll(/\d+/g)].map(([digits]) => Number(digits));
  if (!dims.every(Number.isSafeInteger)) throw new Error("its shape is beyond any file");
  return { descr: descr[3] ?? descr[4] ?? "", fortran: order[5] === "True", shape: dims };
};

const kinds: ReadonlyMap<string, string> = new Map([
  ["f", "floating-point numbers"],
  ["c", "complex numbers"],
  ["b", "booleans"],
  ["O", "Python objects"],
  ["U", "texts"],
  ["S", "texts"],
  ["V", "records"],
  ["M", "dates"],
  ["m", "times"],
]);

interface Numbers {
  /** Bytes of an element. */
  readonly width: number;
  readonly little: boolean;
  readonly signed: boolean;
}

const numbersOf = (path: string, descr: string): Numbers => {
  const match = /^([<>|=])([iu])([1248])$/.exec(descr);
  if (match !== null) return { width: Number(match[3]), little: match[1] !== ">", signed: match[2] === "i" };
  const kind = kinds.get(/^[<>|=]?(.)/.exec(descr)?.[1] ?? "");
  // Pixels of [0, 1] would all become 0 under a plain astype.
  const remedy = /^[<>|=]?f/.test(descr)
    ? "(255 * x).round().astype(numpy.uint8) where x is of [0, 1]"
    : ".astype(numpy.uint8)";
  throw fault(path, `it holds ${kind ?? "another type"} (${descr}); save it with ${remedy}`);
};

/** The numbers as bytes; `at` is the place of the first, for the message. */
const narrow = (path: string, bytes: Uint8Array, { width, little, signed }: Numbers, at: number): Uint8Array => {
  const bad = (i: number, value: number | bigint): RequestError =>
    fault(path, `it holds ${value} at place ${at + i}; check that it is the right file`);
  if (width === 1) {
    const negative = signed ? bytes.findIndex((byte) => byte > 127) : -1;
    if (negative >= 0) throw bad(negative, bytes[negative]! - 256);
    return bytes;
  }
  const out = new Uint8Array(bytes.length / width);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let i = 0; i < out.length; i++) {
    const o = i * width;
    const value =
      width === 8
        ? signed
          ? view.getBigInt64(o, little)
          : view.getBigUint64(o, little)
        : width === 4
          ? signed
            ? view.getInt32(o, little)
            : view.getUint32(o, little)
          : signed
            ? view.getInt16(o, little)
            : view.getUint16(o, little);
    if (value < 0 || value > 255) throw bad(i, value);
    out[i] = Number(value);
  }
  return out;
};

const readHeader = async (
  file: FileHandle,
  size: number,
  path: string,
): Promise<Header & { readonly data: number }> => {
  const cut = (): Error => fault(path, "it is cut short; download it again");
  const start = await readExactly(file, 0, Math.min(size, sniffedBytes), cut);
  const kind = sniff(start, size);
  if (kind !== "npy") throw misfit(path, kind, "a numpy .npy file", "save the array with numpy.save");
  if (size < 12) throw cut();
  const version = start[6]!;
  if (version < 1 || version > 3) throw fault(path, `its version ${version} is not known`);
  const view = new DataView(start.buffer);
  const length = version > 1 ? view.getUint32(8, true) : view.getUint16(8, true);
  const begin = version > 1 ? 12 : 10;
  if (length > LONGEST_HEADER || begin + length > size) throw cut();
  const text = Buffer.from(await readExactly(file, begin, length, cut)).toString(version === 3 ? "utf8" : "latin1");
  try {
    return { ...parseNpyHeader(text), data: begin + length };
  } catch (cause) {
    throw fault(path, (cause as Error).message);
  }
};

/**
 * Opens a file of whole numbers of any width and byte order, in C order. Every number is checked to be of 0 to 255
 * where it is read. The format has no checksum.
 * @throws RequestError naming the file where it is missing or something else
 */
export const openNpy = async (path: string): Promise<Npy> => {
  let handle: FileHandle | undefined;
  try {
    const file = await open(path, "r");
    handle = file;
    const { size } = await file.stat();
    const { descr, fortran, shape, data } = await readHeader(file, size, path);
    const numbers = numbersOf(path, descr);
    if (fortran && shape.filter((d) => d !== 1).length > 1)
      throw fault(path, "it is in Fortran order; save it through numpy.ascontiguousarray");
    if (shape.length === 0) throw fault(path, "it holds a single number, no array");
    const row = shape.slice(1).reduce((n, d) => n * d, 1);
    const bytes = shape[0]! * row * numbers.width;
    if (bytes !== size - data)
      throw fault(
        path,
        `its shape [${shape.join(",")}] takes ${bytes} bytes but ${size - data} follow; download it again`,
      );
    const cut = (): Error => fault(path, "it was cut while being read");
    return {
      shape,
      rows: async (from, to) => {
        if (!(from >= 0 && from <= to && to <= shape[0]!)) throw new RangeError(`rows ${from} to ${to} of ${shape[0]}`);
        const each = row * numbers.width;
        return narrow(path, await readExactly(file, data + from * each, (to - from) * each, cut), numbers, from * row);
      },
      close: () => file.close(),
    };
  } catch (error) {
    await handle?.close();
    throw fileError(error, "read", path);
  }
};

/**
 * Labels of a .npy file: one for each image, as [N] or [N,1].
 * @param classes how many there are; labels are 0 to below that
 * @throws RequestError naming the file and the label that is out of range, or the shape that is none of labels
 */
export const readNpyLabels = async (path: string, classes: number): Promise<Uint8Array> => {
  const file = await openNpy(path);
  try {
    const [count = 0, ...rest] = file.shape;
    if (rest.some((d) => d !== 1))
      throw new RequestError(
        `${path} is [${file.shape.join(",")}]; labels are one number an image, [${count}]${rest.length === 1 ? " (of one-hot labels, numpy.argmax(labels, 1))" : ""}`,
      );
    const labels = await file.rows(0, count);
    const wrong = labels.findIndex((label) => label >= classes);
    if (wrong >= 0)
      throw new RequestError(
        `${path} has label ${labels[wrong]} for image ${wrong}, but labels are 0 to ${classes - 1}; check that it is the right file`,
      );
    return labels;
  } finally {
    await file.close();
  }
};
