/** The ways to compute a convolution in the pixel-major layout, and the choice among them for a shape. */
import { costs } from "./costs.ts";
import type { Geometry } from "./im2col.ts";
import { tilesOfImage } from "./winograd.ts";

/** All take any shape but for what `waysFor` says. */
export type Way = "winograd" | "im2col" | "thin";

/** A convolution, its gradient to the input, its gradient to the weights. */
export type ConvOp = "forward" | "input" | "weight";

export interface ConvShape {
  readonly images: number;
  readonly inputChannels: number;
  readonly outputChannels: number;
  readonly geometry: Geometry;
}

/** Chooses among the ways that can take a shape. */
export type Choose = (op: ConvOp, ways: readonly Way[], shape: ConvShape) => Way;

/** What was measured at one shape (3×3, stride 1). */
export interface Cost {
  readonly op: ConvOp;
  readonly inputChannels: number;
  readonly outputChannels: number;
  /** Side of the square images. */
  readonly side: number;
  /** GFLOP/s of each way, counting the operations of the direct sum whatever the way spends. */
  readonly rates: Readonly<Partial<Record<Way, number>>>;
}

const square = (pair: readonly number[], value: number): boolean => pair.every((v) => v === value);

/** Channels from which a Winograd product is not too thin, and up to which rows of images make good columns. */
const THIN = 8;

/** The ways that can take a shape. */
export const waysFor = ({ geometry: g, inputChannels, outputChannels }: ConvShape): readonly Way[] => {
  const plain = square(g.strides, 1) && square(g.dilations, 1);
  const ways: Way[] = ["im2col"];
  if (plain && square(g.kernel, 3) && square(g.pads, 1) && g.input.join() === g.output.join())
    if (Math.min(inputChannels, outputChannels) >= THIN) ways.unshift("winograd");
  if (inputChannels < THIN && square(g.strides, 1)) ways.unshift("thin");
  return ways;
};

const octaves = (a: number, b: number): number => Math.abs(Math.log2(a / b));

const distance = (cost: Cost, { inputChannels, outputChannels, geometry: { input } }: ConvShape): number =>
  octaves(cost.inputChannels, inputChannels) +
  octaves(cost.outputChannels, outputChannels) +
  octaves(cost.side, Math.sqrt(input[0] * input[1]));

/**
 * Tiles from which on Winograd's products save more than its filters, four times as large, take longer to read: attacks on few
 * images ask for 4 at a time in 33 instead of 59 ms (ResNet-18 of width 64, one core of an Intel Xeon with AVX-512).
 */
const FEW = 12;

/** The way with the highest rate in the cost table, at the nearest shape at which all of `ways` were measured; for few tiles never Winograd. */
export const fastest: Choose = (op, ways, shape) => {
  if (ways.length > 1 && shape.images * tilesOfImage(shape.geometry.input) < FEW) return directly(op, ways, shape);
  return highest(op, ways, shape);
};

const highest: Choose = (op, ways, shape) => {
  const [usual] = ways as readonly [Way];
  if (ways.length === 1) return usual;
  let nearest: Cost | undefined;
  for (const cost of costs) {
    if (cost.op !== op || ways.some((way) => cost.rates[way] === undefined)) continue;
    if (nearest === undefined || distance(cost, shape) < distance(nearest, shape)) nearest = cost;
  }
  const rate = (way: Way): number => nearest?.rates[way] ?? 0;
  return ways.reduce((best, way) => (rate(way) > rate(best) ? way : best), usual);
};

/** The same without Winograd's rounding. */
export const directly: Choose = (op, ways, shape) =>
  highest(
    op,
    ways.filter((way) => way !== "winograd"),
    shape,
  );
