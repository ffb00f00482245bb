/** The bfloat16 convolutions of a model (graphs/targets/cpu/bfloat16) as custom ops of onnxruntime, computed with oneDNN. */
import { isConstant, isInput, type Node, type Type, type Value } from "../../../../graphs/onnx/graph.ts";
import type { Model } from "../../../../graphs/onnx/write.ts";
import {
  bfloat16Name,
  type Convolution,
  convolutionOf,
  isRowSums,
  type Mapped,
  madeOf,
  mappedOf,
  NARROW,
} from "../../../../graphs/targets/cpu/bfloat16/ops.ts";
import type { CustomOp, KernelRun, Kernels } from "../custom-op.ts";
import type { Type as DataType } from "./maker.ts";
import { bytesOf, type ConvolutionShape, type Images, type Prepared, type Primitives, volume } from "./primitives.ts";

/** Bytes of a vector, at whose multiples oneDNN likes memory to start. */
const ALIGNED = 64;
const aligned = (address: bigint): bigint => ((address + BigInt(ALIGNED - 1)) / BigInt(ALIGNED)) * BigInt(ALIGNED);

/** Memory for what lies between primitives, as large as the largest of all nodes, which run one after the other. */
class Scratch {
  readonly #buffers = new Map<string, Uint8Array>();
  readonly #address: (buffer: Uint8Array) => bigint;
  constructor(address: (buffer: Uint8Array) => bigint) {
    this.#address = address;
  }

  reserve(name: string, bytes: number): void {
    if ((this.#buffers.get(name)?.length ?? 0) < bytes) this.#buffers.set(name, new Uint8Array(bytes + ALIGNED));
  }

  at(name: string): bigint {
    return aligned(this.#address(this.#buffers.get(name)!));
  }

  clear(name: string): void {
    this.#buffers.get(name)!.fill(0);
  }
}

type Compute = (run: KernelRun) => void;

/**
 * Rows of zeros that lie above and below images lower than the kernel: told of padding there, oneDNN 3.2 and its AVX-512 BF16 read memory that
 * nobody wrote, and give gradients to the weights that are none.
 */
const rowsAround = (c: Convolution): { readonly above: number; readonly below: number } => {
  const [kernel, height, above] = [c.dilations[0]! * (c.kernel[0]! - 1) + 1, c.input[0]!, c.pads[0]!];
  if (height >= kernel) return { above: 0, below: 0 };
  return { above, below: Math.max(0, c.strides[0]! * (c.output[0]! - 1) + kernel - height - above) };
};

type Side = "input" | "output";

const imagesIn = ({ inputChunks }: Convolution): number => inputChunks.reduce((a, b) => a + b, 0);

/** Values of a chunk this many times as large as the filter are read where they lie, not brought together (Zen 4). */
const LARGE = 16;

/** Whether a gradient to the weights is the sum of the chunks'. */
const byChunks = ({ inputChunks, outputChunks, channels: [ci = 0, co = 0], kernel, input, output }: Convolution) => {
  if (inputChunks.join() !== outputChunks.join()) return false;
  const area = ([h = 0, w = 0]: readonly number[]): number => h * w;
  const values = Math.min(...inputChunks) * (ci * area(input) + co * area(output));
  return values >= LARGE * ci * co * area(kernel);
};

const chunksOf = (c: Convolution, side: Side): readonly number[] => (side === "input" ? c.inputChunks : c.outputChunks);

const imagesOf = (c: Convolution, side: Side, count: number): Images => {
  const [h = 0, w = 0] = c[side];
  return [count, c.channels[side === "input" ? 0 : 1]!, h, w];
};

/** Some images of a chunk, and where they go among those that are computed at once. */
export interface Piece {
  readonly chunk: number;
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

/** Which chunks hold images `first` to `first + count`. */
export const piecesOf = (chunks: readonly number[], first: number, count: number): readonly Piece[] => {
  let start = 0;
  return chunks.flatMap((held, chunk) => {
    const [from, end] = [Math.max(first, start), Math.min(first + count, start + held)];
    const piece = { chunk, from: from - start, to: from - first, count: end - from };
    start += held;
    return end > from ? [piece] : [];
  });
};

/** Rounds some images of a chunk, and brings them to their place. */
interface Rounding {
  readonly chunk: number;
  readonly run: (from: bigint, to: bigint) => void;
  /** The chunk is all images, in bfloat16 already. */
  readonly done: boolean;
}

/** Types of the chunks of a side, of which some are bfloat16. */
type Types = readonly Type["dtype"][];

/** A type as oneDNN calls it. */
const heldAs = (dtype: Type["dtype"] | undefined): DataType => (dtype === NARROW ? "bfloat16" : "float32");

/** Filters as oneDNN likes them: inputs and constants of a model are laid out once a run, in memory that stays. */
class Filters {
  readonly #address: (buffer: Uint8Array) => bigint;
  readonly #packed = new Map<Prepared, Map<Value, Uint8Array>>();
  readonly #fresh = new Set<Uint8Array>();
  constructor(address: (buffer: Uint8Array) => bigint) {
    this.#address = address;
  }

  /** Those of the last run are stale. */
  began(): void {
    this.#fresh.clear();
  }

  /** Where such a filter, which lies at `address` in this run, lies as a convolution wants it. */
  packed(prepared: Prepared, filter: Value, address: bigint): bigint {
    const byInput = this.#packed.get(prepared) ?? new Map<Value, Uint8Array>();
    this.#packed.set(prepared, byInput);
    const buffer = byInput.get(filter) ?? new Uint8Array(prepared.filterBytes + ALIGNED);
    byInput.set(filter, buffer);
    const at = aligned(this.#address(buffer));
    if (!this.#fresh.has(buffer)) prepared.filter(address, at);
    this.#fresh.add(buffer);
    return at;
  }
}

/** Where the images lie in bfloat16: as they came, or rounded to `near`. */
const gathered = (roundings: readonly Rounding[], parts: readonly bigint[], near: bigint): bigint => {
  const [first] = roundings;
  if (roundings.length === 1 && first?.done) return parts[first.chunk]!;
  for (const { chunk, run } of roundings) run(parts[chunk]!, near);
  return near;
};

/** Bytes of a strip of rows about: with what is read and written besides, a core's second cache (Zen 4). */
const STRIP = 2 ** 20;

/** Strips of rows, nearly equal, of so many bytes a row. */
export const stripsOf = (rows: number, bytes: number): readonly { readonly from: number; readonly count: number }[] => {
  const strip = Math.ceil(rows / Math.ceil((rows * bytes) / STRIP));
  return Array.from({ length: Math.ceil(rows / strip) }, (_, i) => ({
    from: i * strip,
    count: Math.min(strip, rows - i * strip),
  }));
};

class Plans {
  readonly #primitives: Primitives;
  readonly #scratch: Scratch;
  readonly #filters: Filters;
  constructor(primitives: Primitives, scratch: Scratch, filters: Filters) {
    this.#primitives = primitives;
    this.#scratch = scratch;
    this.#filters = filters;
  }

  #shape({ channels: [ci = 0, co = 0], kernel: [kh = 0, kw = 0], ...c }: Convolution, count: number): ConvolutionShape {
    const whole = { channels: [ci, co], kernel: [kh, kw], ...c };
    const [x, y] = [imagesOf(whole, "input", count), imagesOf(whole, "output", count)];
    return { x, y, w: [co, ci, kh, kw], strides: c.strides, dilations: c.dilations, pads: c.pads };
  }

  /** What brings `count` images from `first` on to memory of their own, in bfloat16. */
  #roundings(c: Convolution, side: Side, types: Types, first: number, count: number): readonly Rounding[] {
    const chunks = chunksOf(c, side);
    const channels = imagesOf(c, side, 1)[1];
    return piecesOf(chunks, first, count).map((piece) => {
      const images = imagesOf(c, side, piece.count);
      const [held, type] = [chunks[piece.chunk]!, heldAs(types[piece.chunk])];
      const narrow = type === "bfloat16";
      const near = volume(images, type, held);
      const run = this.#primitives.reorder(near, volume(images, "bfloat16", count));
      const [skipped, before] = [BigInt(piece.from * channels * (narrow ? 2 : 4)), BigInt(piece.to * channels * 2)];
      const done = narrow && piece.count === count && held === count;
      return { chunk: piece.chunk, run: (from, to) => run(from + skipped, to + before), done };
    });
  }

  /**
   * A convolution or its gradient to the input, chunk by chunk of what it makes.
   * @param types of the chunks that it reads
   * @param kept the filter where it is an input or a constant of the model, the same throughout a run
   */
  through(kind: "forward" | "input", c: Convolution, types: Types, kept: Value | undefined): Compute {
    const [from, to]: [Side, Side] = kind === "forward" ? ["input", "output"] : ["output", "input"];
    const scratch = this.#scratch;
    let first = 0;
    const chunks = chunksOf(c, to).map((count) => {
      const roundings = this.#roundings(c, from, types, first, count);
      const prepared = this.#primitives.convolution(kind, this.#shape(c, count), heldAs(madeOf(c.narrow)));
      scratch.reserve("given", bytesOf(volume(imagesOf(c, from, count), "bfloat16")));
      scratch.reserve("filter", prepared.filterBytes);
      first += count;
      const [, channels, h, w] = imagesOf(c, to, count);
      return { roundings, prepared, shape: [h * w, count * channels] };
    });
    return ({ inputs: [filter, ...parts], output }) => {
      const [near, own] = [scratch.at("given"), scratch.at("filter")];
      let last: Prepared | undefined;
      chunks.forEach(({ roundings, prepared, shape }, i) => {
        const held = kept === undefined ? own : this.#filters.packed(prepared, kept, filter!);
        if (kept === undefined && last !== prepared) prepared.filter(filter!, own);
        last = prepared;
        prepared.run(gathered(roundings, parts, near), held, output(i, shape));
      });
    };
  }

  /** A gradient to the weights: of all images at once, or the sum of the chunks' where they are large. */
  weight(c: Convolution, types: Types): Compute {
    let first = 0;
    const sums = (byChunks(c) ? c.inputChunks : [imagesIn(c)]).map((count) => {
      first += count;
      return this.#weightOf(c, types, first - count, count);
    });
    const [ci = 0, co = 0] = c.channels;
    return ({ inputs: parts, output }) => {
      const whole = output(0, [co, ci, ...c.kernel]);
      for (const [i, sum] of sums.entries()) sum(parts, whole, i > 0);
    };
  }

  /** That of `count` images from `first` on, written or added to what there is. */
  #weightOf(c: Convolution, types: Types, first: number, count: number) {
    const scratch = this.#scratch;
    const inputs = c.inputChunks.length;
    const x = this.#roundings(c, "input", types.slice(0, inputs), first, count);
    const dy = this.#roundings(c, "output", types.slice(inputs), first, count);
    const { above, below } = rowsAround(c);
    const bordered = above + below > 0;
    const [from, back] = [bordered ? "bordered" : "input", "output"] as const;
    const [, channels, h, w] = imagesOf(c, "input", count);
    const tall: Images = [count, channels, above + h + below, w];
    const shape = { ...this.#shape(c, count), x: tall, ...(bordered && { pads: [0, c.pads[1]!] }) };
    scratch.reserve(from, bytesOf(volume(tall, "bfloat16")));
    scratch.reserve(back, bytesOf(volume(shape.y, "bfloat16")));
    const skipped = BigInt(2 * above * w * count * channels);
    const prepared = this.#primitives.weightGradient(shape);
    scratch.reserve("filter", prepared.filterBytes);
    return (parts: readonly bigint[], whole: bigint, adds: boolean): void => {
      if (bordered) scratch.clear(from);
      const [near, held] = [scratch.at(from), scratch.at("filter")];
      if (bordered) for (const { chunk, run } of x) run(parts[chunk]!, near + skipped);
      const given = bordered ? near : gathered(x, parts, near);
      prepared.run(given, gathered(dy, parts.slice(inputs), scratch.at(back)), held);
      (adds ? prepared.added : prepared.filter)(held, whole);
    };
  }

  /** Sums over rows: those of strips that the caches hold with what oneDNN writes besides, and their sums. */
  sums({ inputs: [x], outputs }: Node): Compute {
    const [rows = 0, columns = 0] = x!.shape;
    const type = heldAs(x!.dtype);
    const scratch = this.#scratch;
    const row = bytesOf({ dims: [columns], strides: [1], type });
    const strips = stripsOf(rows, row).map(({ from, count }, i) => {
      const run = this.#primitives.rowSums(count, columns, type);
      scratch.reserve("unread", count * row);
      return { run, skipped: BigInt(from * row), at: BigInt(4 * i * columns) };
    });
    const made = (output: KernelRun["output"]) => outputs.map(({ shape }, i) => output(i, shape)) as [bigint, bigint];
    const [whole] = strips as [(typeof strips)[number]];
    if (strips.length === 1)
      return ({ inputs: [first, second = first], output }) =>
        whole.run(first!, second!, scratch.at("unread"), ...made(output));
    const total = this.#primitives.rowSums(strips.length, columns, "float32");
    for (const name of ["sums", "products", "unread"]) scratch.reserve(name, 4 * strips.length * columns);
    scratch.reserve("squares", 4 * columns);
    return ({ inputs: [first, second = first], output }) => {
      const [unread, squares] = [scratch.at("unread"), scratch.at("squares")];
      const parts = [scratch.at("sums"), scratch.at("products")] as const;
      for (const { run, skipped, at } of strips)
        run(first! + skipped, second! + skipped, unread, parts[0] + at, parts[1] + at);
      made(output).forEach((to, i) => {
        total(parts[i]!, parts[i]!, unread, to, squares);
      });
    };
  }

  /** A map of rows. */
  map(does: Mapped, { inputs: [x, , ...more], outputs: [y] }: Node): Compute {
    const { shape, dtype } = y!;
    const [rows = 0, columns = 0] = shape;
    const [plus, times] = [does.term, does.term + does.plus].map((i) => heldAs(more[i]?.dtype)) as [DataType, DataType];
    const types = { x: heldAs(x!.dtype), plus, times, result: heldAs(dtype) };
    const run = this.#primitives.rowMap(does, rows, columns, types);
    return ({ inputs, output }) => run(...inputs, output(0, shape));
  }
}

/** What computes a node. */
const computing = (plans: Plans, node: Node): Compute => {
  const known = convolutionOf(node);
  if (known !== undefined) {
    const { kind, convolution } = known;
    const types = node.inputs.map(({ dtype }) => dtype);
    if (kind === "weight") return plans.weight(convolution, types);
    const filter = node.inputs[0]!;
    const stays = isConstant(filter) || (isInput(filter) && filter.frame === null);
    return plans.through(kind, convolution, types.slice(1), stays ? filter : undefined);
  }
  if (isRowSums(node)) return plans.sums(node);
  const does = mappedOf(node);
  if (does === undefined) throw new Error(`internal: ${node.definition.name} is not computed by oneDNN`);
  return plans.map(does, node);
};

/** One custom op for each name in the file. */
export const onednnOps = (model: Model, primitives: Primitives, address: (buffer: Uint8Array) => bigint): Kernels => {
  const filters = new Filters(address);
  const plans = new Plans(primitives, new Scratch(address), filters);
  const ops = new Map<string, CustomOp>();
  for (const node of model.nodes.values()) {
    const name = bfloat16Name(node);
    if (name === undefined || ops.has(name)) continue;
    const dtypes = (values: Node["inputs"]) => values.map(({ dtype }) => dtype);
    const create: CustomOp["create"] = (called) => {
      const found = model.nodes.get(called);
      if (found === undefined) throw new Error(`internal: the model has no node ${called}`);
      return computing(plans, found);
    };
    const [inputs, outputs] = [dtypes(node.inputs), dtypes(node.outputs)];
    ops.set(name, { name, provider: "CPUExecutionProvider", inputs, outputs, create });
  }
  return { ops: [...ops.values()], began: () => filters.began() };
};
