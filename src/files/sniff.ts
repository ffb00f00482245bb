import { open } from "node:fs/promises";
import { RequestError } from "../errors.ts";
import { fileError } from "./file-error.ts";

/** What a file is by its first bytes; suffixes are not looked at. */
export type FileKind =
  | "empty"
  | "torch"
  | "legacy-torch"
  | "npz"
  | "zip"
  | "safetensors"
  | "pickle"
  | "npy"
  | "gzip"
  | "tar"
  | "xz"
  | "bzip2"
  | "zstd"
  | "onnx"
  | "png"
  | "jpeg"
  | "gif"
  | "webp"
  | "bmp"
  | "tiff"
  | "svg"
  | "hdf5"
  | "html"
  | "git-lfs"
  | "apple-double"
  | "json"
  | "text"
  | "unknown";

interface Described {
  /** Completes "it is …". */
  readonly what: string;
  /** What to do about it, where that does not depend on what was wanted. */
  readonly remedy?: string;
}

const download = "the download went wrong: download the file itself";
const unpack = "unpack it and give what is inside";

const described: Readonly<Record<FileKind, Described>> = {
  empty: { what: "empty", remedy: "the download or the writing of it broke off: make or download it again" },
  torch: { what: "a PyTorch checkpoint (a zip archive)" },
  "legacy-torch": { what: "a PyTorch checkpoint of before version 1.6" },
  npz: { what: "a numpy .npz archive", remedy: unpack },
  zip: { what: "a zip archive", remedy: unpack },
  safetensors: { what: "a safetensors file" },
  pickle: { what: "a Python pickle" },
  npy: { what: "a numpy .npy array" },
  gzip: { what: "gzip-compressed", remedy: "unpack it with gunzip first" },
  tar: { what: "a tar archive", remedy: unpack },
  xz: { what: "xz-compressed", remedy: "unpack it with unxz first" },
  bzip2: { what: "bzip2-compressed", remedy: "unpack it with bunzip2 first" },
  zstd: { what: "zstd-compressed", remedy: "unpack it with unzstd first" },
  onnx: { what: "an ONNX model" },
  png: { what: "a PNG image" },
  jpeg: { what: "a JPEG image" },
  gif: { what: "a GIF image" },
  webp: { what: "a WebP image" },
  bmp: { what: "a BMP image" },
  tiff: { what: "a TIFF image" },
  svg: { what: "an SVG or XML file" },
  hdf5: { what: "an HDF5 file (Keras, TensorFlow)", remedy: "convert it to ONNX or safetensors" },
  html: { what: "an HTML page", remedy: download },
  "git-lfs": { what: "a Git LFS pointer, which only stands for the file", remedy: "fetch it with git lfs pull" },
  "apple-double": {
    what: "a macOS companion file (._…), which holds no data",
    remedy: "give the file it stands beside",
  },
  json: { what: "a JSON text" },
  text: { what: "a text" },
  unknown: { what: "of a kind that is not known here" },
};

/** Bytes to give to `sniff`. */
export const sniffedBytes = 1024;

const ascii = (bytes: Uint8Array, from: number, to: number): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1", from, to);

const magics: readonly (readonly [string, FileKind])[] = [
  ["\x93NUMPY", "npy"],
  ["\x1f\x8b", "gzip"],
  ["\xfd7zXZ\0", "xz"],
  ["BZh", "bzip2"],
  ["\x28\xb5\x2f\xfd", "zstd"],
  ["\x89PNG\r\n\x1a\n", "png"],
  ["\xff\xd8\xff", "jpeg"],
  ["GIF8", "gif"],
  ["II*\0", "tiff"],
  ["MM\0*", "tiff"],
  ["\x89HDF", "hdf5"],
  ["\0\x05\x16\x07", "apple-double"],
  ["version https://git-lfs", "git-lfs"],
  // The pickled number 0x1950a86a20f9469cfc6c with which torch.save began until PyTorch 1.6.
  ["\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", "legacy-torch"],
];

const zipKind = (bytes: Uint8Array): FileKind => {
  // The name of the first member, after the 30 bytes of its header.
  const name = ascii(bytes, 30, 30 + ((bytes[26] ?? 0) | ((bytes[27] ?? 0) << 8)));
  if (/(^|\/)(data\.pkl|version|byteorder|\.format_version|\.data\/serialization_id|data\/\d+)$/.test(name))
    return "torch";
  return name.endsWith(".npy") ? "npz" : "zip";
};

const isSafetensors = (bytes: Uint8Array, size: number): boolean => {
  if (bytes.length < 9 || bytes[8] !== 0x7b) return false;
  const length = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  return length >= 2n && length <= BigInt(size);
};

/** Keys of ModelProto's fields after the first: producer, domain, documentation, graph, opsets, metadata. */
const modelFields: ReadonlySet<number> = new Set([0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42, 0x72]);

/** An ONNX ModelProto as exporters write it: the IR version first, then another of its fields. */
const isOnnx = (bytes: Uint8Array): boolean =>
  bytes.length > 4 && bytes[0] === 0x08 && bytes[1]! >= 1 && bytes[1]! < 32 && modelFields.has(bytes[2]!);

const textKind = (bytes: Uint8Array): FileKind | undefined => {
  const start = ascii(bytes, 0, sniffedBytes);
  if ([...start].some((c) => (c < " " && !"\t\n\f\r\x1b".includes(c)) || c === "\x7f")) return undefined;
  const text = start.replace(/^\xef\xbb\xbf/, "").trimStart();
  if (/^<(!doctype html|html|head|body|!--)/i.test(text)) return "html";
  if (/^<(\?xml|svg)/i.test(text)) return "svg";
  if (/^[{[]/.test(text)) return "json";
  return "text";
};

/**
 * What a file is.
 * @param bytes its first `sniffedBytes` bytes, or all where it is shorter
 * @param size of the whole file
 */
export const sniff = (bytes: Uint8Array, size = bytes.length): FileKind => {
  if (size === 0 || bytes.length === 0) return "empty";
  const start = ascii(bytes, 0, 32);
  if (["PK\x03\x04", "PK\x05\x06", "PK\x06\x06"].includes(start.slice(0, 4))) return zipKind(bytes);
  const magic = magics.find(([text]) => start.startsWith(text));
  if (magic !== undefined) return magic[1];
  if (ascii(bytes, 257, 262) === "ustar") return "tar";
  if (isSafetensors(bytes, size)) return "safetensors";
  if (start.startsWith("RIFF") && ascii(bytes, 8, 12) === "WEBP") return "webp";
  if (start.startsWith("BM") && size > 26) return "bmp";
  if (bytes[0] === 0x80 && bytes[1]! >= 2 && bytes[1]! <= 5) return "pickle";
  if (isOnnx(bytes)) return "onnx";
  return textKind(bytes) ?? "unknown";
};

/**
 * What a file on disk is, and how long.
 * @throws RequestError or RunError naming it where the file system refuses
 */
export const sniffFile = async (path: string): Promise<{ readonly kind: FileKind; readonly size: number }> => {
  try {
    const handle = await open(path, "r");
    try {
      const { size } = await handle.stat();
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(sniffedBytes), 0, sniffedBytes, 0);
      return { kind: sniff(buffer.subarray(0, bytesRead), size), size };
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError(error, "read", path);
  }
};

/** `it is an HTML page`, to be put into a sentence. */
export const whatItIs = (kind: FileKind): string => `it is ${described[kind].what}`;

/**
 * The refusal of a file of another kind: what it is, what was wanted, what to do.
 * @param wanted completes "not …", such as "a safetensors file"
 * @param remedy where the kind itself gives none
 */
export const misfit = (path: string, kind: FileKind, wanted: string, remedy: string): RequestError =>
  new RequestError(`${path} is ${described[kind].what}, not ${wanted}; ${described[kind].remedy ?? remedy}`);
