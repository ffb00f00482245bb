import { Parser } from "pickleparser";

/**
 * Reads Python pickles of numpy arrays, as `pickle.dump({"name": array})` writes them with numpy 1 or 2 and any
 * protocol of Python 3 from 1 on. Nothing but arrays is made: any other class is refused by name.
 */

/** An array out of a pickle, integers only. */
export interface PickledArray {
  readonly shape: readonly number[];
  /** Row-major. */
  readonly values: Float64Array;
}

class NumpyDtype {
  readonly code: string;
  #order = "<";

  constructor(code: unknown) {
    this.code = String(code);
  }

  __setstate__(state: readonly unknown[]): void {
    this.#order = String(state[1]);
  }

  read(bytes: unknown, count: number): Float64Array {
    const size = Number(this.code.slice(1));
    if (!/^[iu][1248]$/.test(this.code)) throw new Error(`its arrays are of type ${this.code}, not integers`);
    if (!(bytes instanceof Uint8Array)) throw new Error("its arrays were pickled by Python 2");
    if (bytes.length !== size * count) throw new Error(`${bytes.length} bytes do not hold ${count} values`);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const little = this.#order !== ">";
    const signed = this.code.startsWith("i");
    const at: Record<number, (offset: number) => number> = {
      1: (o) => (signed ? view.getInt8(o) : view.getUint8(o)),
      2: (o) => (signed ? view.getInt16(o, little) : view.getUint16(o, little)),
      4: (o) => (signed ? view.getInt32(o, little) : view.getUint32(o, little)),
      8: (o) => Number(signed ? view.getBigInt64(o, little) : view.getBigUint64(o, little)),
    };
    return Float64Array.from({ length: count }, (_, i) => at[size]!(i * size));
  }
}

class NumpyArray implements PickledArray {
  shape: readonly number[] = [];
  values: Float64Array = new Float64Array(0);

  fill(shape: unknown, dtype: unknown, columnMajor: boolean, bytes: unknown): this {
    if (!(Array.isArray(shape) && dtype instanceof NumpyDtype)) throw new Error("an array in it has no shape or type");
    this.shape = shape.map(Number);
    if (columnMajor && this.shape.length > 1) throw new Error("an array in it is column-major");
    this.values = dtype.read(
      bytes,
      this.shape.reduce((n, d) => n * d, 1),
    );
    return this;
  }

  __setstate__(state: readonly unknown[]): void {
    this.fill(state[1], state[2], state[3] === true, state[4]);
  }
}

type Made = (...args: never[]) => unknown;

const known: Readonly<Record<string, Made>> = {
  "multiarray._reconstruct": () => new NumpyArray(),
  "numeric._frombuffer": (bytes: unknown, dtype: unknown, shape: unknown, order: unknown) =>
    new NumpyArray().fill(shape, dtype, order === "F", bytes),
  ndarray: () => new NumpyArray(),
  dtype: (code: unknown) => new NumpyDtype(code),
};

const resolve = (module: string, name: string): Made => {
  // Protocols 0 to 2 have no bytes: they are written as text to encode again.
  if (module === "_codecs" && name === "encode") return (text: string) => new Uint8Array(Buffer.from(text, "latin1"));
  const found = /^numpy(\._?core)?(\.|$)/.test(module)
    ? known[`${module}.${name}`.replace(/^numpy\.(_?core\.)?/, "")]
    : undefined;
  if (found === undefined) throw new Error(`it holds a ${module}.${name}, and only numpy arrays are read`);
  return found;
};

/**
 * The arrays of a pickled dictionary, by key.
 * @throws Error that says what is wrong with the bytes, to be put behind the file's name
 */
export const readPickledArrays = (bytes: Uint8Array): Map<string, PickledArray> => {
  const top: unknown = new Parser({ nameResolver: { resolve }, unpicklingTypeOfDictionary: "Map" }).parse(bytes);
  if (!(top instanceof Map)) throw new Error("it is not a dictionary of arrays");
  const arrays = new Map<string, PickledArray>();
  for (const [key, value] of top as Map<unknown, unknown>) {
    if (!(value instanceof NumpyArray)) throw new Error(`${String(key)} in it is not a numpy array`);
    arrays.set(String(key), value);
  }
  return arrays;
};
