/** Measures every way to compute each convolution of an encoder: where the cost tables of targets come from. */
import { apply, input, isAbsent, type Node, type Value } from "../../graphs/onnx/graph.ts";
import { float32, type Tensor } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { conv, convGradInput, convGradWeight, definitionOf, expand } from "../../graphs/ops/index.ts";
import { cpuTarget } from "../../graphs/targets/cpu/index.ts";
import { pixelLayout } from "../../graphs/targets/cpu/pixel.ts";
import { type ConvOp, type ConvShape, fastest, type Way, waysFor } from "../../graphs/targets/cpu/ways.ts";
import { Lowered, rowMajor } from "../../graphs/targets/layout.ts";
import { lower, type Target } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import type { Engine } from "../engine/engine.ts";
import { firstElement, someNumbers } from "../engine/layouts/timing.ts";
import { createSession, type Session, type SessionOptions } from "../engine/session.ts";
import type { VerbContext } from "../verbs/verb.ts";
import { gemmPeak } from "./measure.ts";
import type { BenchSettings } from "./settings.ts";

/** One line of the table. Speeds count the direct sum's operations, whatever the way spends. */
export interface LoweringRow<W extends string = string> {
  readonly op: ConvOp;
  readonly shape: ConvShape;
  readonly way: W;
  /** Whether the target takes this way, of several. */
  readonly chosen: boolean;
  readonly milliseconds: number;
  readonly gflops: number;
}

/** The different convolutions of a ResNet of basic blocks. */
export const encoderShapes = (images: number, width: number, size: number): ConvShape[] => {
  const shape = (inputChannels: number, outputChannels: number, side: number, kernel: number, stride: number) => {
    const pad = kernel >> 1;
    const out = Math.floor((side + 2 * pad - kernel) / stride) + 1;
    const geometry = {
      input: [side, side],
      output: [out, out],
      kernel: [kernel, kernel],
      pads: [pad, pad],
      strides: [stride, stride],
      dilations: [1, 1],
    } as const;
    return { images, inputChannels, outputChannels, geometry };
  };
  const shapes = [shape(3, width, size, 3, 1), shape(width, width, size, 3, 1)];
  for (let stage = 1, side = size; stage < 4; stage++, side = Math.ceil(side / 2)) {
    const channels = width * 2 ** stage;
    shapes.push(
      shape(channels / 2, channels, side, 3, 2),
      shape(channels / 2, channels, side, 1, 2),
      shape(channels, channels, Math.ceil(side / 2), 3, 1),
    );
  }
  return shapes;
};

export const describeShape = ({ images, inputChannels, outputChannels, geometry: g }: ConvShape): string =>
  `${images}×${inputChannels}→${outputChannels} ${g.input.join("×")} k${g.kernel.join("×")} s${g.strides[0]}`;

const operations = ({ images, inputChannels, outputChannels, geometry: g }: ConvShape): number =>
  2 * images * inputChannels * outputChannels * g.kernel[0] * g.kernel[1] * g.output[0] * g.output[1];

const image = (name: string, shape: readonly number[]): Value => input(name, { dtype: "float32", shape });

/** The source node of an op at a shape. */
const nodeOf = (op: ConvOp, { images, inputChannels, outputChannels, geometry: g }: ConvShape): Node => {
  const x = image("x", [images, inputChannels, ...g.input]);
  const dy = image("dy", [images, outputChannels, ...g.output]);
  const w = image("w", [outputChannels, inputChannels, ...g.kernel]);
  const window = { pads: [...g.pads, ...g.pads], strides: g.strides, dilations: g.dilations, group: 1 };
  if (op === "forward") return conv(x, w, { ...window, kernel_shape: g.kernel }).node;
  if (op === "input") return convGradInput(dy, w, { ...window, size: g.input }).node;
  return convGradWeight(x, dy, { ...window, kernel: g.kernel }).node;
};

/** The op alone: images come in the layout that it asks for, and its result is left as it returns it. */
const placedGraph = (node: Node, target: Target): Value[] => {
  const inputs = node.inputs.map((value, i) => {
    if (value.rank !== 4 || value.node.attributes.name === "w" || value.node.attributes.name === undefined)
      return new Lowered(value, { layout: rowMajor, parts: [value] });
    const layout = pixelLayout(value);
    const parts = layout.chunks.map((n, k) => image(`${i}.${k}`, [value.dim(2) * value.dim(3), n * value.dim(1)]));
    return new Lowered(value, { layout, parts });
  });
  const lowered = (value: Value): Lowered => inputs[node.inputs.indexOf(value)] as Lowered;
  const call = { inputs, attributes: node.attributes, types: node.outputs, node, lowered };
  const results = target.lowerings.get(definitionOf(node))?.(call) ?? [];
  return results.flatMap((result) => ("parts" in result ? result.parts : [result]));
};

const convOps = ["forward", "input", "weight"] as const;

/** Best times of some sessions, run in turn so that what disturbs one disturbs all. */
const bestOf = async (sessions: readonly { session: Session; feeds: Record<string, Tensor> }[], reps: number) => {
  const best = sessions.map(() => Number.POSITIVE_INFINITY);
  for (let rep = 0; rep <= reps; rep++)
    for (const [i, { session, feeds }] of sessions.entries()) {
      const start = performance.now();
      await session.run(feeds);
      if (rep > 0) best[i] = Math.min(best[i]!, performance.now() - start);
    }
  return best;
};

/** Measures all ways for all shapes; rows of one op and shape follow each other, portable first. */
export async function* measureLowerings(
  shapes: readonly ConvShape[],
  { reps = 5, ...options }: SessionOptions & { readonly reps?: number } = {},
): AsyncGenerator<LoweringRow<Way | "portable">> {
  for (const shape of shapes)
    for (const op of convOps) {
      const node = nodeOf(op, shape);
      const ways = waysFor(shape);
      const graphs = new Map<Way | "portable", Value[]>([["portable", [lower({ y: node.outputs[0]! }, portable).y]]]);
      for (const way of ways) graphs.set(way, placedGraph(node, cpuTarget({ choose: () => way })));
      const sessions = await Promise.all(
        Array.from(graphs.values(), async (values) => {
          const outputs = Object.fromEntries(values.map((value, i) => [`y${i}`, firstElement(value)]));
          const model = buildModel(outputs);
          const session = await createSession(model, { optimization: "disabled", ...options });
          const feeds = Object.fromEntries(
            Object.entries(model.inputs).map(([name, { shape: dims }]) => [name, someNumbers(dims)]),
          );
          return { session, feeds };
        }),
      );
      const best = await bestOf(sessions, reps);
      await Promise.all(sessions.map(({ session }) => session.release()));
      const taken = fastest(op, ways, shape);
      for (const [i, way] of [...graphs.keys()].entries()) {
        const milliseconds = best[i]!;
        yield { op, shape, way, chosen: way === taken, milliseconds, gflops: operations(shape) / milliseconds / 1e6 };
      }
    }
}

/**
 * Measures one target's convolutions on a device across a bus: the operands are filled there from one number each, and of
 * the results one element comes back, so that only the op is timed (filling is measured alone and taken off).
 */
export async function* measureTarget(
  shapes: readonly ConvShape[],
  name: string,
  target: Target,
  { reps = 5, ...options }: SessionOptions & { readonly reps?: number } = {},
): AsyncGenerator<LoweringRow> {
  const inARun = 4;
  for (const shape of shapes)
    for (const op of convOps) {
      const node = nodeOf(op, shape);
      const seeds = Array.from({ length: inARun }, (_, i) => image(`seed${i}`, []));
      const filled = (withOp: boolean) => {
        const firsts = seeds.flatMap((seed) => {
          const operands = node.inputs.map((value) => (isAbsent(value) ? value : expand(seed, value.shape)));
          const results = apply(node.definition, operands, node.attributes);
          return (withOp ? results : operands.filter((value) => !isAbsent(value))).map(firstElement);
        });
        return lower(Object.fromEntries(firsts.map((value, i) => [`y${i}`, value])), target);
      };
      const feeds = Object.fromEntries(seeds.map((_, i) => [`seed${i}`, float32([], [0.25 + i / 8])]));
      const sessions = await Promise.all(
        [true, false].map(async (withOp) => ({
          session: await createSession(buildModel(filled(withOp)), options),
          feeds,
        })),
      );
      const [whole = 0, filling = 0] = await bestOf(sessions, reps);
      await Promise.all(sessions.map(({ session }) => session.release()));
      const milliseconds = Math.max(whole - filling, 0) / inARun;
      yield { op, shape, way: name, chosen: false, milliseconds, gflops: operations(shape) / milliseconds / 1e6 };
    }
}

export interface LoweringFigures {
  /** Rate of a large product. */
  readonly peakGflops: number;
  readonly rows: readonly LoweringRow[];
}

const printLowering = ({ op, shape, way, milliseconds, gflops, chosen }: LoweringRow, peak: number): string =>
  `${op.padEnd(8)} ${describeShape(shape).padEnd(30)} ${way.padEnd(9)} ${milliseconds.toFixed(2).padStart(9)} ms ` +
  `${gflops.toFixed(0).padStart(5)} GFLOP/s ${((100 * gflops) / peak).toFixed(0).padStart(4)} % of peak${chosen ? "  chosen" : ""}`;

/** Every way of the CPU target, or the one way of the target that is asked for. */
export const benchLowerings = async (
  { batch, width, size, reps, target }: BenchSettings,
  engine: Engine,
  context: VerbContext,
): Promise<LoweringFigures> => {
  const { gflops: peakGflops } = await gemmPeak(engine);
  const rows: LoweringRow[] = [];
  const shapes = encoderShapes(batch, width, size);
  const options = { ...engine.options, reps };
  const measured =
    engine.provider === "cpu" && target === undefined
      ? measureLowerings(shapes, options)
      : measureTarget(shapes, target ?? engine.target.name, engine.target, options);
  for await (const row of measured) {
    rows.push(row);
    context.print(printLowering(row, peakGflops));
  }
  return { peakGflops, rows };
};
