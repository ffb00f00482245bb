/** oneDNN's objects, made in the processor's engine: descriptions of tensors, and primitives that run over addresses. */
import { loadKoffi } from "../library.ts";
import type { Onednn } from "./library.ts";

/** `dnnl_data_type_t`. */
const types = { bfloat16: 2, float32: 3 } as const;
export type Type = keyof typeof types;

const CPU = 1; // dnnl_cpu
const IN_ORDER = 1; // dnnl_stream_in_order
const ANY = 1; // dnnl_format_tag_any
const FORWARD = 64; // dnnl_forward_training
const BACKWARD = 128; // dnnl_backward
/** `dnnl_use_global_stats | dnnl_use_scale | dnnl_use_shift` */
const GIVEN_STATISTICS = 7;
const DIRECT = 1; // dnnl_convolution_direct
const MAX = 0x1ff; // dnnl_pooling_max
const PRODUCT = 0x1fff1; // dnnl_binary_mul
/** `DNNL_ARG_SRC` and `DNNL_ARG_DST`. */
const [SRC, DST] = [1, 17] as const;

/** A tensor's elements in memory: sizes, and how many elements lie between neighbours along each axis. */
export interface Strided {
  readonly dims: readonly number[];
  readonly strides: readonly number[];
  readonly type: Type;
}

/** A primitive over addresses, in the order in which it was told of its operands. */
export type Run = (...addresses: readonly bigint[]) => void;

/** An object of oneDNN's. They live as long as the process. */
export type Pointer = unknown;

/** `DNNL_ARG_…` and what lies there. */
export type Operand = readonly [argument: number, descriptor: Pointer];

/** What a primitive does behind its own result: a binary algorithm with a tensor, or an elementwise one with two numbers. */
export type Operation =
  | readonly [algorithm: number, tensor: Pointer]
  | readonly [algorithm: number, alpha: number, beta: number];

export const longs = (of: readonly number[]): BigInt64Array => BigInt64Array.from(of, BigInt);

export class Maker {
  readonly #onednn: Onednn;
  readonly #engine: Pointer;
  readonly #stream: Pointer;
  readonly #constants: (Float32Array | Uint16Array)[] = [];

  constructor(onednn: Onednn) {
    this.#onednn = onednn;
    const { engineCreate, streamCreate } = onednn.functions;
    this.#engine = this.#out("opening the processor", engineCreate, CPU, 0);
    this.#stream = this.#out("opening a stream", streamCreate, this.#engine, IN_ORDER);
  }

  #out(what: string, make: (...args: Pointer[]) => number, ...args: Pointer[]): Pointer {
    const place: Pointer[] = [null];
    this.#onednn.attempt(what, make(place, ...args));
    return place[0];
  }

  tensor({ dims, strides, type }: Strided): Pointer {
    const { descriptorWithStrides } = this.#onednn.functions;
    const args = [dims.length, longs(dims), types[type], longs(strides)];
    return this.#out("describing a tensor", descriptorWithStrides, ...args);
  }

  /** A tensor in the layout that a primitive likes. */
  any(dims: readonly number[], type: Type): Pointer {
    const { descriptorWithTag } = this.#onednn.functions;
    return this.#out("describing a filter", descriptorWithTag, dims.length, longs(dims), types[type], ANY);
  }

  /** How a described primitive wants one of its tensors (`dnnl_query_…_md`). */
  held(description: Pointer, query: number): Pointer {
    return this.#onednn.functions.query(description, query, 0);
  }

  bytes(descriptor: Pointer): number {
    return Number(this.#onednn.functions.descriptorSize(descriptor));
  }

  forward(x: Pointer, w: Pointer, y: Pointer, window: readonly BigInt64Array[]): Pointer {
    const args = [this.#engine, FORWARD, DIRECT, x, w, null, y, ...window, null];
    return this.#out("describing a convolution", this.#onednn.functions.forward, ...args);
  }

  toInput(dx: Pointer, w: Pointer, dy: Pointer, window: readonly BigInt64Array[], forward: Pointer): Pointer {
    const args = [this.#engine, DIRECT, dx, w, dy, ...window, forward, null];
    return this.#out("describing a gradient to the input", this.#onednn.functions.backwardData, ...args);
  }

  toWeights(x: Pointer, dw: Pointer, dy: Pointer, window: readonly BigInt64Array[], forward: Pointer): Pointer {
    const args = [this.#engine, DIRECT, x, dw, null, dy, ...window, forward, null];
    return this.#out("describing a gradient to the weights", this.#onednn.functions.backwardWeights, ...args);
  }

  /** The gradient of a batch norm whose statistics are given, with those to its scale and shift. */
  normGradient(x: Pointer): Pointer {
    const { normForward, normBackward } = this.#onednn.functions;
    const forward = this.#out("describing a norm", normForward, this.#engine, FORWARD, x, x, 0, GIVEN_STATISTICS, null);
    const args = [this.#engine, BACKWARD, x, x, x, 0, GIVEN_STATISTICS, forward, null];
    return this.#out("describing a norm's gradient", normBackward, ...args);
  }

  /** Max pooling; `window` holds strides, kernel, dilations and pads. */
  largest(x: Pointer, y: Pointer, window: readonly BigInt64Array[]): Pointer {
    const args = [this.#engine, FORWARD, MAX, x, y, ...window, null];
    return this.#out("describing a pooling", this.#onednn.functions.poolForward, ...args);
  }

  largestGradient(dx: Pointer, dy: Pointer, window: readonly BigInt64Array[], forward: Pointer): Pointer {
    const args = [this.#engine, MAX, dx, dy, ...window, forward, null];
    return this.#out("describing a pooling's gradient", this.#onednn.functions.poolBackward, ...args);
  }

  /** A product of a tensor with one that broadcasts to it, and what is done behind it; the result is of its type. */
  product(a: Pointer, b: Pointer, after: readonly Operation[]): Pointer {
    const { appendBinary, appendEltwise, binary } = this.#onednn.functions;
    const attributes = this.#behind((operations) => {
      for (const [algorithm, first, second] of after)
        this.#onednn.attempt(
          "adding an operation",
          second === undefined
            ? appendBinary(operations, algorithm, first)
            : appendEltwise(operations, algorithm, first, second),
        );
    });
    return this.#out("describing a product", binary, this.#engine, PRODUCT, a, b, a, attributes);
  }

  /** Attributes of a primitive with what is done behind it. */
  #behind(add: (operations: Pointer) => void): Pointer {
    const { attempt, functions } = this.#onednn;
    const attributes = this.#out("making attributes", functions.attributesCreate);
    const operations = this.#out("making operations", functions.postOpsCreate);
    add(operations);
    attempt("setting operations", functions.postOpsSet(attributes, operations));
    return attributes;
  }

  /** The address of numbers that stay where they are, as long as this does. */
  constant(numbers: Float32Array | Uint16Array): bigint {
    this.#constants.push(numbers);
    return loadKoffi().address(numbers);
  }

  copy(from: Pointer, to: Pointer): Run {
    return this.#copy(from, to, null);
  }

  /** Adds a tensor to one in another layout. */
  addition(from: Pointer, to: Pointer): Run {
    const sum = (operations: Pointer) => this.#onednn.functions.appendSum(operations, 1, 0, 0);
    const attributes = this.#behind((operations) => this.#onednn.attempt("adding a sum", sum(operations)));
    return this.#copy(from, to, attributes);
  }

  #copy(from: Pointer, to: Pointer, attributes: Pointer): Run {
    const args = [from, this.#engine, to, this.#engine, attributes];
    return this.bound(this.#out("describing a copy", this.#onednn.functions.reorder, ...args), [
      [SRC, from],
      [DST, to],
    ]);
  }

  /** Makes a primitive and the memories that its operands are. */
  bound(description: Pointer, operands: readonly Operand[]): Run {
    const { attempt, functions } = this.#onednn;
    const { memoryCreate, memorySet, primitiveCreate, execute } = functions;
    const primitive = this.#out("making a primitive", primitiveCreate, description);
    const memories = operands.map(([, descriptor]) =>
      this.#out("describing memory", memoryCreate, descriptor, this.#engine, 0),
    );
    const koffi = loadKoffi();
    // dnnl_exec_arg_t: an int, padded, and a pointer.
    const table = BigUint64Array.from(
      operands.flatMap(([argument], i) => [BigInt(argument), koffi.address(memories[i] as never)]),
    );
    return (...addresses) => {
      for (let i = 0; i < memories.length; i++) attempt("setting memory", memorySet(memories[i], addresses[i]!));
      attempt("computing", execute(primitive, this.#stream, memories.length, table));
    };
  }
}
