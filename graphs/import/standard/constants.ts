/**
 * Weights that stand behind a node of constants (Constant, Identity, Cast, DequantizeLinear), as plain float32 initializers:
 * what reads them finds weights that can be looked at, trained and written back.
 */
import { dtypes } from "../../onnx/dtype.ts";
import { fromFloat16 } from "../../onnx/float16.ts";
import { parseTensor } from "../../onnx/parse.ts";
import { sizeOf, type Tensor } from "../../onnx/tensor.ts";
import {
  type GraphProto,
  type ModelProto,
  type NodeProto,
  nodesOf,
  onnx,
  type Rewrite,
  type TensorProto,
} from "./protos.ts";

const FLOAT = dtypes.float32.onnx;
/** Tensors of fewer elements are numbers of the program. */
const LEAST = 4;
/** Ops whose constant operands are weights. */
const weighted = new Set([
  "Conv",
  "ConvTranspose",
  "Gemm",
  "MatMul",
  "BatchNormalization",
  "InstanceNormalization",
  "LayerNormalization",
  "PRelu",
]);

const standard = ({ domain }: NodeProto): boolean => !domain || domain === "ai.onnx";

const floatProto = (name: string, shape: readonly number[], data: Float32Array): TensorProto =>
  onnx.TensorProto.create({
    name,
    dims: [...shape],
    dataType: FLOAT,
    rawData: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  });

const numbersOf = ({ dtype, data }: Tensor): Float32Array =>
  dtype === "float16" ? fromFloat16(data as Uint16Array) : Float32Array.from(data as ArrayLike<number>, Number);

/** (x - zero)·scale, by axis where scale is a vector; undefined where it is by blocks. */
const dequantized = (x: Tensor, scale: Tensor, zero: Tensor | undefined, axis: number): Float32Array | undefined => {
  const scales = numbersOf(scale);
  const zeros = zero && numbersOf(zero);
  const at = axis < 0 ? axis + x.shape.length : axis;
  const many = scales.length > 1;
  if (many && (scale.shape.length !== 1 || x.shape[at] !== scales.length)) return undefined;
  const inner = sizeOf(x.shape.slice(at + 1));
  return numbersOf(x).map((v, i) => {
    const k = many ? Math.floor(i / inner) % scales.length : 0;
    return (v - (zeros?.[k] ?? 0)) * scales[k]!;
  });
};

class Constants {
  readonly #protos: Map<string, TensorProto>;
  readonly #parsed = new Map<string, Tensor>();

  constructor(graph: GraphProto) {
    this.#protos = new Map((graph.initializer ?? []).map((proto) => [proto.name ?? "", proto]));
  }

  get(name: string | undefined): Tensor | undefined {
    const proto = name ? this.#protos.get(name) : undefined;
    if (name === undefined || proto === undefined) return undefined;
    const known = this.#parsed.get(name) ?? parseTensor(proto, `the initializer ${JSON.stringify(name)}`);
    this.#parsed.set(name, known);
    return known;
  }

  has(name: string | undefined): name is string {
    return name !== undefined && this.#protos.has(name);
  }

  add(graph: GraphProto, proto: TensorProto): void {
    graph.initializer = [...(graph.initializer ?? []), proto];
    this.#protos.set(proto.name ?? "", proto);
  }
}

const attributeOf = (node: NodeProto, name: string) => (node.attribute ?? []).find((given) => given.name === name);

/** The float32 constant that a node makes of constants; undefined where it is none of these. */
const made = (node: NodeProto, constants: Constants, read: ReadonlySet<string>): TensorProto | undefined => {
  const [first, second, third] = node.input ?? [];
  const name = node.output?.[0] ?? "";
  if (!standard(node) || name === "") return undefined;
  if (node.opType === "Constant") {
    const held = attributeOf(node, "value")?.t;
    const size = sizeOf((held?.dims ?? []).map(Number));
    return held?.dataType === FLOAT && size >= LEAST && read.has(name)
      ? onnx.TensorProto.create({ ...held, name })
      : undefined;
  }
  if (node.opType === "Cast" && Number(attributeOf(node, "to")?.i) === FLOAT) {
    const held = constants.get(first);
    return held !== undefined && ["float16", "float64", "float32"].includes(held.dtype) && held.data.length >= LEAST
      ? floatProto(name, held.shape, numbersOf(held))
      : undefined;
  }
  if (node.opType !== "DequantizeLinear") return undefined;
  const [x, scale, zero] = [constants.get(first), constants.get(second), constants.get(third)];
  if (x === undefined || scale?.dtype !== "float32" || (third && zero === undefined)) return undefined;
  const data = dequantized(x, scale, zero, Number(attributeOf(node, "axis")?.i ?? 1));
  return data && floatProto(name, x.shape, data);
};

/** Values that weighted ops read, at once or through Identity and Cast. */
const readByWeighted = (nodes: readonly NodeProto[]): ReadonlySet<string> => {
  const names = new Set<string>();
  for (const node of [...nodes].reverse()) {
    const passes = ["Identity", "Cast"].includes(node.opType ?? "") && names.has(node.output?.[0] ?? "");
    if (standard(node) && (weighted.has(node.opType ?? "") || passes))
      for (const name of node.input ?? []) names.add(name);
  }
  return names;
};

/** Makes initializers of them in the main graph. */
export const hoistConstants = (model: ModelProto): Rewrite => {
  const { graph } = model;
  if (!graph) return { changed: false, notes: [] };
  const constants = new Constants(graph);
  const nodes = graph.node ?? [];
  const outputs = new Set((graph.output ?? []).map(({ name }) => name ?? ""));
  const read = readByWeighted(nodes);
  // A model whose features are integers too is left to the runtime as it is.
  const whole = nodes.some((node) => standard(node) && node.opType === "QuantizeLinear");
  const renamed = new Map<string, string>();
  const dequantizedNames: string[] = [];
  const kept = nodes.filter((node) => {
    node.input = (node.input ?? []).map((name) => renamed.get(name) ?? name);
    const [name = ""] = node.output ?? [];
    if (outputs.has(name)) return true;
    const [first] = node.input;
    if (node.opType === "Identity" && standard(node) && constants.has(first) && read.has(name)) {
      renamed.set(name, first);
      return false;
    }
    const proto = whole && node.opType === "DequantizeLinear" ? undefined : made(node, constants, read);
    if (proto === undefined) return true;
    if (node.opType === "DequantizeLinear") dequantizedNames.push(name);
    constants.add(graph, proto);
    return false;
  });
  if (kept.length === nodes.length) return { changed: false, notes: [] };
  graph.node = kept;
  for (const node of nodesOf(kept)) node.input = (node.input ?? []).map((name) => renamed.get(name) ?? name);
  const notes =
    dequantizedNames.length === 0
      ? []
      : [`${dequantizedNames.length} weights stored as integers are computed in float32`];
  return { changed: true, notes };
};
