import { Budget, type ReadOptions } from "./budget.ts";
import { unpickle } from "./pickle-machine.ts";
import { InertClass, type PickleClass, PickleObject, textOf } from "./pickle-stack.ts";

/**
 * Reads Python pickles of numpy arrays, as `pickle.dump({"name": array})` writes them with numpy 1 or 2, Python 2 or 3
 * and any protocol. Nothing but arrays, texts and numbers is made: any other class is refused by name.
 */

const itemTypes: ReadonlyMap<string, number> = new Map([
  ["i1", 1],
  ["u1", 1],
  ["i2", 2],
  ["u2", 2],
  ["i4", 4],
  ["u4", 4],
  ["i8", 8],
  ["u8", 8],
]);

class NumpyDtype extends PickleObject {
  /** `i4`, `u1`, …: kind and bytes. */
  readonly code: string;
  #state: unknown;

  constructor(code: unknown) {
    super();
    this.code = textOf(code) ?? "?";
  }

  override setState(state: unknown): void {
    this.#state = state;
  }

  /** Whether the bytes of an element stand in the order of the small end first. */
  get little(): boolean {
    return textOf((this.#state as readonly unknown[] | undefined)?.[1]) !== ">";
  }
}

/** One element, with a getter of the fitting width. */
const reader = (view: DataView, code: string, little: boolean): ((offset: number) => number) => {
  switch (code) {
    case "i1":
      return (o) => view.getInt8(o);
    case "i2":
      return (o) => view.getInt16(o, little);
    case "u2":
      return (o) => view.getUint16(o, little);
    case "i4":
      return (o) => view.getInt32(o, little);
    case "u4":
      return (o) => view.getUint32(o, little);
    case "i8":
      return (o) => Number(view.getBigInt64(o, little));
    case "u8":
      return (o) => Number(view.getBigUint64(o, little));
    default:
      return (o) => view.getUint8(o);
  }
};

/** An array out of a pickle. What the pickle says of it is kept as it is and looked at when it is read. */
export class PickledArray extends PickleObject {
  #state: readonly unknown[] = [];

  /** @param state version, shape, dtype, whether columns come first, bytes: as numpy's `__reduce__` gives them */
  override setState(state: unknown): void {
    this.#state = Array.isArray(state) ? state : [];
  }

  /**
   * Its shape, and the bytes of its elements.
   * @throws Error where its numbers do not fit together
   */
  raw(): {
    readonly shape: readonly number[];
    readonly code: string;
    readonly little: boolean;
    readonly bytes: Uint8Array;
  } {
    const [, shape, dtype, columnMajor, data] = this.#state;
    if (!(Array.isArray(shape) && dtype instanceof NumpyDtype)) throw new Error("an array in it has no shape or type");
    if (shape.length > 32 || !shape.every((d) => Number.isSafeInteger(d) && d >= 0))
      throw new Error("an array in it has a shape that is none");
    const size = itemTypes.get(dtype.code);
    if (size === undefined) throw new Error(`its arrays are of type ${dtype.code}, not integers`);
    if (columnMajor === true && shape.filter((d) => d !== 1).length > 1)
      throw new Error("an array in it is in Fortran order; give it through numpy.ascontiguousarray");
    // Protocols 0 to 2 of Python 3 write bytes as text to be encoded again.
    const bytes = typeof data === "string" ? latin1(data) : data;
    if (!(bytes instanceof Uint8Array)) throw new Error("an array in it holds objects, not numbers");
    const count = (shape as number[]).reduce((n, d) => n * d, 1);
    if (bytes.length !== size * count) throw new Error(`${bytes.length} bytes do not hold ${count} values`);
    return { shape: shape as number[], code: dtype.code, little: dtype.little, bytes };
  }

  /**
   * Its elements, row-major.
   * @throws Error where it holds no integers, or such as a float64 does not hold
   */
  integers(budget: Budget): { readonly shape: readonly number[]; readonly values: Float64Array } {
    const { shape, code, little, bytes } = this.raw();
    const size = itemTypes.get(code)!;
    const count = bytes.length / size;
    budget.take(8 * count, "an array in it");
    const read = reader(new DataView(bytes.buffer, bytes.byteOffset, bytes.length), code, little);
    const values = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      const value = read(i * size);
      if (!Number.isSafeInteger(value)) throw new Error(`an array in it holds ${value}, which is no label`);
      values[i] = value;
    }
    return { shape, values };
  }
}

const latin1 = (text: string): Uint8Array => {
  const bytes = Buffer.from(text, "latin1");
  if (bytes.toString("latin1") !== text) throw new Error("an array in it is of text that is no bytes");
  return new Uint8Array(bytes);
};

const fromBuffer = ([bytes, dtype, shape, order]: readonly unknown[]): PickledArray => {
  const array = new PickledArray();
  array.setState([1, shape, dtype, textOf(order) === "F", bytes]);
  return array;
};

/** Text that is to be encoded again: bytes of a pickle of Python 3 under a protocol for Python 2. */
const encode = ([text]: readonly unknown[]): unknown => text;

const classes: ReadonlyMap<string, PickleClass> = new Map<string, PickleClass>([
  ["multiarray._reconstruct", { make: () => new PickledArray() }],
  ["numeric._frombuffer", { make: fromBuffer }],
  ["ndarray", new InertClass("numpy.ndarray")],
  ["dtype", { make: ([code]) => new NumpyDtype(code) }],
]);

const resolve = (module: string, name: string): PickleClass => {
  if (module === "_codecs" && name === "encode") return { make: encode };
  const found = /^numpy(\._?core)?(\.|$)/.test(module)
    ? classes.get(`${module}.${name}`.replace(/^numpy\.(_?core\.)?/, ""))
    : undefined;
  if (found !== undefined) return found;
  if (/^torch(\.|$)/.test(module))
    throw new Error("it holds PyTorch tensors, and only numpy arrays are read (tensor.numpy() gives them)");
  throw new Error(`it holds a ${module}.${name}, and only numpy arrays are read`);
};

/**
 * A pickled dictionary: arrays as PickledArray, texts, numbers and lists as they are; keys that are bytes as text.
 * @throws Error that says what is wrong with the bytes, to be put behind the file's name
 */
export const readPickledDictionary = (bytes: Uint8Array, budget?: Budget): ReadonlyMap<unknown, unknown> => {
  const { value } = unpickle(bytes, { resolve }, budget && { budget });
  if (!(value instanceof Map)) throw new Error("it is not a dictionary of arrays");
  return value;
};

/**
 * The arrays of a pickled dictionary, by key.
 * @throws Error that says what is wrong with the bytes, to be put behind the file's name
 */
export const readPickledArrays = (
  bytes: Uint8Array,
  options: ReadOptions = {},
): Map<string, { readonly shape: readonly number[]; readonly values: Float64Array }> => {
  const budget = Budget.of(bytes.length, options);
  const arrays = new Map<string, { readonly shape: readonly number[]; readonly values: Float64Array }>();
  for (const [key, value] of readPickledDictionary(bytes, budget)) {
    const name = typeof key === "string" ? key : String(typeof key === "number" ? key : typeof key);
    if (!(value instanceof PickledArray)) throw new Error(`${name} in it is not a numpy array`);
    arrays.set(name, value.integers(budget));
  }
  return arrays;
};
