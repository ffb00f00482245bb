/** The bfloat16 convolutions of a model (graphs/targets/cpu/bfloat16) as custom ops of onnxruntime, computed with oneDNN. */
import { isConstant, isInput, type Node, type Value } from "../../../../graphs/onnx/graph.ts";
import type { Model } from "../../../../graphs/onnx/write.ts";
import { bfloat16Name, stepSizeOf } from "../../../../graphs/targets/cpu/bfloat16/name.ts";
import {
  type Convolution,
  convolutionOf,
  imageShape,
  isRowSums,
  madeOf,
  mappedOf,
  ofImages,
  pooledOf,
} from "../../../../graphs/targets/cpu/bfloat16/ops.ts";
import type { CustomOp, Kernels } from "../custom-op.ts";
import {
  bothRoundingsOf,
  type Compute,
  chunksOf,
  gathered,
  heldAs,
  imagesIn,
  imagesOf,
  roundingsOf,
  type Side,
  shapeOf,
  type Tools,
  type Types,
} from "./chunks.ts";
import { toImages } from "./images.ts";
import { poolBy, poolGradientBy } from "./pools.ts";
import { bytesOf, type ConvolutionShape, type Images, type Prepared, type Primitives, volume } from "./primitives.ts";
import { boundedStepBy, rowMapBy, rowSumsBy } from "./rows.ts";
import { ALIGNED, aligned, Scratch } from "./scratch.ts";

/**
 * Rows of zeros that lie above and below images lower than the kernel: told of padding there, oneDNN 3.2 and its AVX-512 BF16 read memory that
 * nobody wrote, and give gradients to the weights that are none.
 */
const rowsAround = (c: Convolution): { readonly above: number; readonly below: number } => {
  const [kernel, height, above] = [c.dilations[0]! * (c.kernel[0]! - 1) + 1, c.input[0]!, c.pads[0]!];
  if (height >= kernel) return { above: 0, below: 0 };
  return { above, below: Math.max(0, c.strides[0]! * (c.output[0]! - 1) + kernel - height - above) };
};

/** Values of a chunk this many times as large as the filter are read where they lie, not brought together (Zen 4). */
const LARGE = 16;

/** Whether a gradient to the weights is the sum of the chunks'. */
const byChunks = (c: Convolution) => {
  const {
    inputChunks,
    outputChunks,
    channels: [ci = 0, co = 0],
    kernel,
    input,
    output,
  } = c;
  if (!ofImages(c) && inputChunks.join() !== outputChunks.join()) return false;
  const area = ([h = 0, w = 0]: readonly number[]): number => h * w;
  const values = Math.min(...outputChunks) * (ci * area(input) + co * area(output));
  return values >= LARGE * ci * co * area(kernel);
};

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

class Convolutions {
  readonly #primitives: Primitives;
  readonly #scratch: Scratch;
  readonly #filters: Filters;
  constructor({ primitives, scratch }: Tools, filters: Filters) {
    this.#primitives = primitives;
    this.#scratch = scratch;
    this.#filters = filters;
  }

  #shape({ channels: [ci = 0, co = 0], kernel: [kh = 0, kw = 0], ...c }: Convolution, count: number): ConvolutionShape {
    const whole = { channels: [ci, co], kernel: [kh, kw], ...c };
    const [x, y] = [imagesOf(whole, "input", count), imagesOf(whole, "output", count)];
    return { x, y, w: [co, ci, kh, kw], strides: c.strides, dilations: c.dilations, pads: c.pads };
  }

  /**
   * A convolution or its gradient to the input, chunk by chunk of what it makes, or of what it reads where it makes images.
   * @param types of the chunks that it reads
   * @param kept the filter where it is an input or a constant of the model, the same throughout a run
   */
  through(kind: "forward" | "input", c: Convolution, types: Types, kept: Value | undefined): Compute {
    const [from, to]: [Side, Side] = kind === "forward" ? ["input", "output"] : ["output", "input"];
    const scratch = this.#scratch;
    const images = kind === "input" && ofImages(c);
    let first = 0;
    const chunks = chunksOf(c, images ? from : to).map((count) => {
      const roundings = roundingsOf(this.#primitives, c, from, types, [first, count]);
      const prepared = this.#primitives.convolution(kind, this.#shape(c, count), heldAs(madeOf(c.narrow)));
      scratch.reserve("given", bytesOf(volume(imagesOf(c, from, count), "bfloat16")));
      scratch.reserve("filter", prepared.filterBytes);
      if (images) scratch.reserve("made", bytesOf(volume(imagesOf(c, to, count), "float32")));
      const deliver = images ? toImages(this.#primitives, c, first, count) : undefined;
      first += count;
      return { roundings, prepared, shape: shapeOf(c, to, count), deliver };
    });
    return ({ inputs: [filter, ...parts], output }) => {
      const [near, own] = [scratch.at("given"), scratch.at("filter")];
      const whole = images ? output(0, imageShape(c)) : undefined;
      let last: Prepared | undefined;
      chunks.forEach(({ roundings, prepared, shape, deliver }, i) => {
        const held = kept === undefined ? own : this.#filters.packed(prepared, kept, filter!);
        if (kept === undefined && last !== prepared) prepared.filter(filter!, own);
        last = prepared;
        const made = whole === undefined ? output(i, shape) : scratch.at("made");
        prepared.run(gathered(roundings, parts, near), held, made);
        deliver?.(made, whole!);
      });
    };
  }

  /** A gradient to the weights: of all images at once, or the sum of the chunks' where they are large. */
  weight(c: Convolution, types: Types): Compute {
    let first = 0;
    const sums = (byChunks(c) ? c.outputChunks : [imagesIn(c)]).map((count) => {
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
    const { x, dy } = bothRoundingsOf(this.#primitives, c, types, [first, count]);
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
}

/** What computes a node. */
const computing = (tools: Tools, convolutions: Convolutions, node: Node): Compute => {
  const types = node.inputs.map(({ dtype }) => dtype);
  const known = convolutionOf(node);
  if (known !== undefined) {
    const { kind, convolution } = known;
    if (kind === "weight") return convolutions.weight(convolution, types);
    const filter = node.inputs[0]!;
    const stays = isConstant(filter) || (isInput(filter) && filter.frame === null);
    return convolutions.through(kind, convolution, types.slice(1), stays ? filter : undefined);
  }
  const pooled = pooledOf(node);
  if (pooled !== undefined) return (pooled.gradient ? poolGradientBy : poolBy)(tools, pooled.convolution, types);
  const stepSize = stepSizeOf(node);
  if (stepSize !== undefined) return boundedStepBy(tools, stepSize, node);
  if (isRowSums(node)) return rowSumsBy(tools, node);
  const does = mappedOf(node);
  if (does === undefined) throw new Error(`internal: ${node.definition.name} is not computed by oneDNN`);
  return rowMapBy(tools, does, node);
};

/** One custom op for each name in the file. */
export const onednnOps = (model: Model, primitives: Primitives, address: (buffer: Uint8Array) => bigint): Kernels => {
  const filters = new Filters(address);
  const tools = { primitives, scratch: new Scratch(address) };
  const convolutions = new Convolutions(tools, filters);
  const ops = new Map<string, CustomOp>();
  for (const node of model.nodes.values()) {
    const name = bfloat16Name(node);
    if (name === undefined || ops.has(name)) continue;
    const dtypes = (values: Node["inputs"]) => values.map(({ dtype }) => dtype);
    const create: CustomOp["create"] = (called) => {
      const found = model.nodes.get(called);
      if (found === undefined) throw new Error(`internal: the model has no node ${called}`);
      return computing(tools, convolutions, found);
    };
    const [inputs, outputs] = [dtypes(node.inputs), dtypes(node.outputs)];
    ops.set(name, { name, provider: "CPUExecutionProvider", inputs, outputs, create });
  }
  return { ops: [...ops.values()], began: () => filters.began() };
};
