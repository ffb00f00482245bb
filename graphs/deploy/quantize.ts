/**
 * Static integer quantisation as QuantizeLinear and DequantizeLinear pairs (QDQ), which every engine understands: those
 * with integer kernels fuse the pairs, the others compute the same in float32.
 *
 * Weights are int8 in [-63, 63], symmetric, one scale an output channel: on processors without VNNI instructions engines add
 * two products of 8 bits in 16, which larger weights can overflow (OpenVINO does not look); biases int32 with the product of both scales; activations
 * int8 with one scale and zero point each, from ranges seen on calibration images.
 */
import {
  apply,
  constant,
  constantName,
  constantOf,
  isAbsent,
  isConstant,
  isInput,
  type Node,
  namedConstant,
  ordered,
  type Value,
} from "../onnx/graph.ts";
import { float32, type Tensor, tensor, zeros } from "../onnx/tensor.ts";
import { add, conv, flatten, gemm, globalAveragePool, reduceMean, sub } from "../ops/index.ts";
import { dequantizeLinear, quantizeLinear } from "./ops.ts";
import { rewrite } from "./rewrite.ts";

// Bound once: under jest every look-up of a global is slow.
const { abs, max, min, round, fround } = Math;

/** The values that an activation takes; 0 is always made exact. */
export interface Range {
  readonly low: number;
  readonly high: number;
}

const name = (node: Node): string => node.definition.name;
const isWeighted = (node: Node): boolean => node.definition === conv.definition || node.definition === gemm.definition;
const activations = ["Relu", "Clip"];
const onIntegers = ["MaxPool", "ReduceMean", "GlobalAveragePool"];

/**
 * The mean over an image's pixels. It is written as a GlobalAveragePool, which is the same in every opset: OpenVINO 2024.0 does not
 * see the axes of a ReduceMean where they are an input.
 */
const isSpatialMean = ({ definition, inputs: [x], attributes: { axes, keepdims } }: Node): boolean =>
  definition === reduceMean.definition && x?.rank === 4 && String(axes) === "2,3" && keepdims === 0;

/** Whether weights and bias are constants with the output channels first. */
const hasPlainWeights = ({ definition, inputs: [, weight, bias], attributes }: Node): boolean =>
  isConstant(weight as Value) &&
  (bias === undefined || isAbsent(bias) || (isConstant(bias) && bias.rank === 1 && bias.dim(0) === weight?.dim(0))) &&
  (definition === conv.definition ||
    (attributes.transB === 1 && !attributes.transA && (attributes.alpha ?? 1) === 1 && (attributes.beta ?? 1) === 1));

/** Whether a node computes on integers once its inputs are quantised. */
const takesIntegers = (node: Node): boolean =>
  isWeighted(node)
    ? hasPlainWeights(node)
    : name(node) === "Add"
      ? node.inputs.every((value) => !isConstant(value))
      : onIntegers.includes(name(node));

/**
 * The values that are quantised, in the order of the graph: what integer ops read, but not what goes only through an
 * activation, which engines fuse with the op before it.
 */
export const quantizedValues = (outputs: Readonly<Record<string, Value>>): readonly Value[] => {
  const nodes = ordered(Object.values(outputs), () => true);
  const results = new Set(Object.values(outputs));
  const readers = new Map<Value, Node[]>();
  for (const node of nodes) for (const value of node.inputs) readers.set(value, [...(readers.get(value) ?? []), node]);
  const isQuantised = (value: Value): boolean => {
    const by = readers.get(value) ?? [];
    if (value.dtype !== "float32" || isConstant(value) || !by.some(takesIntegers)) return false;
    return results.has(value) || !by.every((node) => activations.includes(name(node)));
  };
  return nodes.flatMap((node) => node.outputs).filter(isQuantised);
};

const called = (from: Value, what: string, value: Tensor): Value => {
  const given = constantName(from);
  return given === undefined ? constant(value) : namedConstant(`${given}.${what}`, value);
};

/** 2·255·63 stays below 2^15, 2·255·127 does not. */
const largestWeight = 63;

/** int8 weights with a scale for each element of axis 0. */
const quantizedWeight = (weight: Value): { readonly value: Value; readonly scales: Float32Array } => {
  const { data, shape } = constantOf(weight) as Tensor;
  const source = data as Float32Array;
  const channels = shape[0]!;
  const each = source.length / channels;
  const scales = new Float32Array(channels);
  const integers = new Int8Array(source.length);
  for (let c = 0; c < channels; c++) {
    let largest = 0;
    for (let i = c * each; i < (c + 1) * each; i++) largest = max(largest, abs(source[i]!));
    const scale = fround(largest === 0 ? 1 : largest / largestWeight);
    scales[c] = scale;
    for (let i = c * each; i < (c + 1) * each; i++)
      integers[i] = max(-largestWeight, min(largestWeight, round(source[i]! / scale)));
  }
  const zero = constant(tensor("int8", [channels], new Int8Array(channels)));
  const value = dequantizeLinear(
    called(weight, "quantized", tensor("int8", shape, integers)),
    called(weight, "scale", float32([channels], scales)),
    zero,
    0,
  );
  return { value, scales };
};

const quantizedBias = (
  bias: Value,
  inputScale: number,
  scales: Float32Array,
  shift: Float32Array | undefined,
): Value => {
  const source = constantOf(bias)?.data as Float32Array;
  const product = scales.map((scale) => scale * inputScale);
  const largest = 2 ** 31 - 1;
  const integers = Int32Array.from(source, (b, c) =>
    max(-largest, min(largest, round((b + (shift?.[c] ?? 0)) / product[c]!))),
  );
  const zero = constant(tensor("int32", [source.length], new Int32Array(source.length)));
  return dequantizeLinear(
    called(bias, "quantized", tensor("int32", [source.length], integers)),
    called(bias, "scale", float32([source.length], product)),
    zero,
    0,
  );
};

/** Scale and zero point of an int8 activation. */
export const affineOf = ({ low, high }: Range): { readonly scale: number; readonly zero: number } => {
  const [from, to] = [min(low, 0), max(high, 0)];
  const scale = fround(to === from ? 1 : (to - from) / 255);
  return { scale, zero: max(-128, min(127, round(-128 - from / scale))) };
};

/** What makes the quantised form of a weighted op, given its inputs and the scale of the first. */
type MakeWeighted = (node: Node, inputs: readonly Value[], inputScale: number) => Value;

/** The graph with every value of `quantizedValues` quantised by its range, and the weights of the ops that read them. */
const quantizedBy = <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  ranges: ReadonlyMap<Value, Range>,
  make: MakeWeighted,
): Record<K, Value> => {
  const scaleOf = new Map<Value, number>();
  // What integer ops read in place of a value of the new graph.
  const rounded = new Map<Value, Value>();
  const roundTo = (value: Value, range: Range): void => {
    const { scale, zero } = affineOf(range);
    const [s, z] = [constant(float32([], [scale])), constant(tensor("int8", [], Int8Array.of(zero)))];
    const made = dequantizeLinear(quantizeLinear(value, s, z), s, z);
    rounded.set(value, made);
    scaleOf.set(made, scale);
  };
  const finish = (before: Value, after: Value): Value => {
    const range = ranges.get(before);
    if (range !== undefined) roundTo(after, range);
    return after;
  };
  return rewrite(outputs, {
    leaf: (value) => (isInput(value) ? finish(value, value) : undefined),
    node: (node, given) => {
      const integer = takesIntegers(node);
      const inputs = integer || !activations.includes(name(node)) ? given.map((v) => rounded.get(v) ?? v) : given;
      const inputScale = scaleOf.get(inputs[0]!);
      const results =
        isWeighted(node) && integer && inputScale !== undefined
          ? [make(node, inputs, inputScale)]
          : isSpatialMean(node)
            ? [flatten(globalAveragePool(inputs[0]!))]
            : apply(node.definition, inputs, node.attributes);
      return results.map((result, i) => finish(node.outputs[i]!, result));
    },
  });
};

/** A convolution or matrix product of a quantised value with quantised weights; `shift` is added to its bias. */
const weighted = (
  node: Node,
  [x, weight, bias]: readonly Value[],
  inputScale: number,
  shift?: Float32Array | undefined,
): Value => {
  const { value, scales } = quantizedWeight(weight as Value);
  const inputs = [x as Value, value];
  const held = bias !== undefined && !isAbsent(bias) ? bias : undefined;
  const base = held ?? (shift && constant(zeros("float32", [scales.length])));
  if (base !== undefined) inputs.push(quantizedBias(base, inputScale, scales, shift));
  return apply(node.definition, inputs, node.attributes)[0] as Value;
};

/** The quantised graph. `shifts` are added to the biases of weighted ops: what `meanShifts` gives on calibration images. */
export const quantized = <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  ranges: ReadonlyMap<Value, Range>,
  shifts: ReadonlyMap<Node, Float32Array> = new Map(),
): Record<K, Value> =>
  quantizedBy(outputs, ranges, (node, inputs, scale) => weighted(node, inputs, scale, shifts.get(node)));

/**
 * How far the mean of each output channel of each weighted op is from where it is without quantisation, as a graph over the
 * float graph's inputs: rounding weights moves means, and so does noise before an activation. Ops after it see it corrected,
 * so that each shift is that of its own op alone (bias correction, Nagel et al. 2019).
 */
export const meanShifts = (
  outputs: Readonly<Record<string, Value>>,
  ranges: ReadonlyMap<Value, Range>,
): ReadonlyMap<Node, Value> => {
  const shifts = new Map<Node, Value>();
  quantizedBy(outputs, ranges, (node, inputs, scale) => {
    const y = weighted(node, inputs, scale);
    const axes = Array.from({ length: y.rank }, (_, axis) => axis).filter((axis) => axis !== 1);
    const shift = reduceMean(sub(node.outputs[0]!, y), { axes, keepdims: 1 });
    shifts.set(node, shift);
    return add(y, shift);
  });
  return shifts;
};
