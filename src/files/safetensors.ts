import { open } from "node:fs/promises";
import { type DType, dtypes } from "../../graphs/onnx/dtype.ts";
import { sizeOf, type Tensor, typeName } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";
import { writeFileAtomic } from "./atomic.ts";
import { fileError } from "./file-error.ts";
import { readExactly } from "./read-exactly.ts";
import { misfit, sniff, sniffedBytes } from "./sniff.ts";

/**
 * The safetensors format (https://github.com/huggingface/safetensors): eight bytes of header length, little endian; a
 * JSON header that gives each tensor's dtype, shape and place; then the tensors' bytes, row-major, little endian,
 * without gaps. Bytes are those of the machine, so a big-endian one is not served.
 */
export interface SafetensorsFile {
  readonly tensors: Map<string, Tensor>;
  /** The header's `__metadata__`: free text by key. */
  readonly metadata: Record<string, string>;
}

interface StoredType {
  readonly dtype: DType;
  /** Bytes of one element in the file. */
  readonly bytes: number;
}

const storedTypes: ReadonlyMap<string, StoredType> = new Map([
  ["F32", { dtype: "float32", bytes: 4 }],
  ["F64", { dtype: "float64", bytes: 8 }],
  ["F16", { dtype: "float16", bytes: 2 }],
  ["BF16", { dtype: "float32", bytes: 2 }],
  ["I8", { dtype: "int8", bytes: 1 }],
  ["U8", { dtype: "uint8", bytes: 1 }],
  ["I16", { dtype: "int16", bytes: 2 }],
  ["U16", { dtype: "uint16", bytes: 2 }],
  ["I32", { dtype: "int32", bytes: 4 }],
  ["U32", { dtype: "uint32", bytes: 4 }],
  ["I64", { dtype: "int64", bytes: 8 }],
  ["U64", { dtype: "uint64", bytes: 8 }],
  ["BOOL", { dtype: "bool", bytes: 1 }],
]);

/** Order of the data in a written file, that of the Python package: wide types first, so that every tensor is aligned. */
const writtenTypes: readonly (readonly [DType, string])[] = [
  ["uint64", "U64"],
  ["int64", "I64"],
  ["float64", "F64"],
  ["float32", "F32"],
  ["uint32", "U32"],
  ["int32", "I32"],
  ["float16", "F16"],
  ["uint16", "U16"],
  ["int16", "I16"],
  ["int8", "I8"],
  ["uint8", "U8"],
  ["bool", "BOOL"],
];

const lengthBytes = 8;
/** The longest header that the format's own library accepts. */
const longestHeader = 100_000_000;
const metadataKey = "__metadata__";

interface Entry {
  readonly name: string;
  /** As the file spells it: F32, BF16, … */
  readonly type: string;
  readonly shape: readonly number[];
  /** From the first byte after the header. */
  readonly begin: number;
  readonly end: number;
}

interface Header {
  /** In the order of the data. */
  readonly entries: readonly Entry[];
  readonly metadata: Record<string, string>;
}

const fault = (source: string, what: string): RequestError =>
  new RequestError(`${source} is not a usable safetensors file: ${what}; make or download it again`);

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

const headerLength = (prefix: Uint8Array, fileBytes: number, source: string): number => {
  if (fileBytes < lengthBytes) throw fault(source, `it has ${fileBytes} bytes, fewer than the 8 of a header's length`);
  const length = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  if (length > BigInt(longestHeader))
    throw fault(source, `its first 8 bytes give a header of ${length} bytes (at most ${longestHeader} are allowed)`);
  if (length > BigInt(fileBytes - lengthBytes))
    throw fault(source, `its header should have ${length} bytes but the file ends after ${fileBytes - lengthBytes}`);
  return Number(length);
};

const parseEntry = (name: string, value: unknown, source: string): Entry => {
  const label = `tensor ${JSON.stringify(name)}`;
  if (!isRecord(value)) throw fault(source, `${label} is not described by an object`);
  const { dtype: type, shape, data_offsets: offsets } = value;
  if (typeof type !== "string") throw fault(source, `${label} has no dtype`);
  const stored = storedTypes.get(type);
  if (stored === undefined)
    throw new RequestError(
      `${source}: ${label} has dtype ${type}, which is not read; convert it to one of ${[...storedTypes.keys()].join(", ")}`,
    );
  if (!Array.isArray(shape) || !shape.every(isCount)) throw fault(source, `${label} has no valid shape`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount))
    throw fault(source, `${label} has no valid data_offsets`);
  const [begin, end] = offsets as [number, number];
  const bytes = sizeOf(shape) * stored.bytes;
  if (end < begin || end - begin !== bytes)
    throw fault(source, `${label} is ${type}[${shape.join(",")}], ${bytes} bytes, but its offsets span ${end - begin}`);
  return { name, type, shape, begin, end };
};

const parseHeader = (bytes: Uint8Array, dataBytes: number, source: string): Header => {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    throw fault(source, "its header is not JSON");
  }
  if (!isRecord(json)) throw fault(source, "its header is not a JSON object");
  const metadata: Record<string, string> = Object.create(null);
  const entries: Entry[] = [];
  for (const [name, value] of Object.entries(json)) {
    if (name !== metadataKey) {
      entries.push(parseEntry(name, value, source));
      continue;
    }
    if (!isRecord(value) || !Object.values(value).every((text) => typeof text === "string"))
      throw fault(source, `${metadataKey} is not an object of texts`);
    Object.assign(metadata, value); // no prototype, so that no name in it means anything
  }
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let filled = 0;
  for (const { name, begin, end } of entries) {
    const label = `tensor ${JSON.stringify(name)}`;
    if (begin < filled) throw fault(source, `${label} starts at byte ${begin}, inside the tensor before it`);
    if (begin > filled) throw fault(source, `bytes ${filled} to ${begin} before ${label} belong to no tensor`);
    filled = end;
  }
  if (filled > dataBytes)
    throw fault(source, `its tensors take ${filled} bytes but only ${dataBytes} follow the header: it is cut short`);
  if (filled < dataBytes) throw fault(source, `${dataBytes - filled} bytes follow the last tensor`);
  return { entries, metadata };
};

/** The tensor of an entry whose bytes stand at the start of a buffer of their own. */
const toTensor = ({ name, type, shape }: Entry, bytes: Uint8Array<ArrayBuffer>, source: string): Tensor => {
  const { dtype } = storedTypes.get(type)!;
  if (type === "BF16") {
    const half = new Uint16Array(bytes.buffer);
    return { dtype, shape, data: new Float32Array(Uint32Array.from(half, (bits) => bits << 16).buffer) };
  }
  if (dtype === "bool" && bytes.some((byte) => byte > 1))
    throw fault(source, `tensor ${JSON.stringify(name)} is BOOL but holds bytes other than 0 and 1`);
  return { dtype, shape, data: new dtypes[dtype].array(bytes.buffer) };
};

/**
 * The tensors of a safetensors file in memory. BF16 becomes float32; data is copied, so `bytes` may be reused.
 *
 * @param source the file's name, for messages
 * @throws RequestError naming `source` and the fault where the bytes are not a whole, valid file
 */
export const decodeSafetensors = (bytes: Uint8Array, source: string): SafetensorsFile => {
  checkKind(bytes.subarray(0, sniffedBytes), bytes.length, source);
  const length = headerLength(bytes, bytes.length, source);
  const data = bytes.subarray(lengthBytes + length);
  const { entries, metadata } = parseHeader(bytes.subarray(lengthBytes, lengthBytes + length), data.length, source);
  const tensors = new Map<string, Tensor>();
  for (const entry of entries)
    tensors.set(entry.name, toTensor(entry, new Uint8Array(data.subarray(entry.begin, entry.end)), source));
  return { tensors, metadata };
};

/** Refuses what is of another known kind by saying of which. What begins like no other is left to the checks below. */
const checkKind = (start: Uint8Array, size: number, source: string): void => {
  const kind = sniff(start, size);
  if (kind !== "safetensors" && kind !== "unknown" && kind !== "bmp")
    throw misfit(source, kind, "a safetensors file", "give one, or convert it");
};

/**
 * Reads a safetensors file of any size; each tensor gets a buffer of its own. BF16 becomes float32. Tensors come in the
 * order of their data.
 *
 * @throws RequestError naming the file and the fault: missing, cut short, too long, header not JSON, dtype not known,
 *   offsets with gaps or overlaps, sizes that do not match
 */
export const readSafetensors = async (path: string): Promise<SafetensorsFile> => {
  try {
    const handle = await open(path, "r");
    try {
      const { size } = await handle.stat();
      const cut = (at: number): Error => fault(path, `it ended at byte ${at} while being read`);
      const prefix = await readExactly(handle, 0, Math.min(size, sniffedBytes), cut);
      checkKind(prefix, size, path);
      const length = headerLength(prefix, size, path);
      const start = lengthBytes + length;
      const { entries, metadata } = parseHeader(
        await readExactly(handle, lengthBytes, length, cut),
        size - start,
        path,
      );
      const tensors = new Map<string, Tensor>();
      for (const entry of entries) {
        const bytes = await readExactly(handle, start + entry.begin, entry.end - entry.begin, cut);
        tensors.set(entry.name, toTensor(entry, bytes, path));
      }
      return { tensors, metadata };
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError(error, "read", path);
  }
};

/** Tensors by name. */
export type NamedTensors = ReadonlyMap<string, Tensor> | Readonly<Record<string, Tensor>>;

const entriesOf = (tensors: NamedTensors): [string, Tensor][] =>
  tensors instanceof Map ? [...tensors] : Object.entries(tensors as Readonly<Record<string, Tensor>>);

const bytesOf = ({ data }: Tensor): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

const checkWritable = (name: string, { dtype, shape, data }: Tensor): void => {
  const label = `${JSON.stringify(name)} (${typeName({ dtype, shape })})`;
  if (name === metadataKey) throw new RequestError(`a tensor cannot be named ${metadataKey}; rename it`);
  if (Buffer.from(name).toString() !== name)
    throw new RequestError(`tensor name ${JSON.stringify(name)} is not valid Unicode; rename it`);
  if (data.length !== sizeOf(shape)) throw new RangeError(`${label} has ${data.length} values`);
  if (data.BYTES_PER_ELEMENT !== dtypes[dtype].array.BYTES_PER_ELEMENT)
    throw new TypeError(`${label} has elements of ${data.BYTES_PER_ELEMENT} bytes`);
  if (dtype === "bool" && (data as Uint8Array).some((byte) => byte > 1))
    throw new RangeError(`${label} holds bytes other than 0 and 1`);
};

/** The file's pieces in order: the header, then the bytes of each tensor, not copied. */
const piecesOf = (tensors: NamedTensors, metadata: Readonly<Record<string, string>>): Uint8Array[] => {
  const order = new Map(writtenTypes.map(([dtype], index) => [dtype, index]));
  const sorted = entriesOf(tensors)
    .map(([name, value]) => ({ name, value, key: Buffer.from(name) }))
    .sort((a, b) => order.get(a.value.dtype)! - order.get(b.value.dtype)! || Buffer.compare(a.key, b.key));
  const spelling = new Map(writtenTypes);
  const texts = Object.entries(metadata).sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  const fields: string[] = [];
  // Joined by hand: an object would move names that look like integers to the front.
  const object = (pairs: readonly string[]): string => `{${pairs.join(",")}}`;
  const pair = (key: string, value: string): string => `${JSON.stringify(key)}:${value}`;
  if (texts.length > 0)
    fields.push(pair(metadataKey, object(texts.map(([key, text]) => pair(key, JSON.stringify(text))))));
  let offset = 0;
  for (const { name, value } of sorted) {
    checkWritable(name, value);
    const end = offset + value.data.byteLength;
    const entry = { dtype: spelling.get(value.dtype), shape: value.shape, data_offsets: [offset, end] };
    fields.push(pair(name, JSON.stringify(entry)));
    offset = end;
  }
  const header = Buffer.from(object(fields));
  const padded = Buffer.alloc(lengthBytes + Math.ceil(header.length / 8) * 8, " ");
  padded.writeBigUInt64LE(BigInt(padded.length - lengthBytes));
  header.copy(padded, lengthBytes);
  return [padded, ...sorted.map(({ value }) => bytesOf(value))];
};

/**
 * A safetensors file as bytes. The same tensors give the same bytes whatever their order: wide types first, then by
 * name, as the Python package writes them.
 *
 * @param metadata free text by key, kept in the header
 * @throws RequestError where a name cannot be stored
 */
export const encodeSafetensors = (tensors: NamedTensors, metadata: Readonly<Record<string, string>> = {}): Uint8Array =>
  Buffer.concat(piecesOf(tensors, metadata));

/**
 * Writes a safetensors file, whole or not at all; the bytes are those of `encodeSafetensors`, written without a copy in
 * memory. Missing parent folders are made.
 *
 * @throws RequestError where a name cannot be stored or the path cannot be written, RunError where the disk is full
 */
export const writeSafetensors = async (
  path: string,
  tensors: NamedTensors,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> => writeFileAtomic(path, piecesOf(tensors, metadata));
