/**
 * Counts what a pretraining step asks of a GPU, without running it: by op, how many nodes there are (a Loop's body as often as
 * it runs), the bytes that they read and write if each reads its operands and writes its results once, and the operations of
 * convolutions and matrix products. For choosing lowerings where no GPU is at hand: it times nothing.
 *
 *   node dist/scripts/benchmarks/count-traffic.js [--target cuda] [--batch 512] [--width 64] [--bandwidth 3350] [--flops 495]
 *
 * `--bandwidth` in GB/s and `--flops` in TFLOP/s are those of an H100's data sheet (SXM; dense TF32). Beside that a step's time
 * is predicted from rates that were reached on an H200 (docs/gpu.md): a product takes its operations or its bytes, whichever is
 * longer, everything else its bytes, at the rate of a copy and at that of onnxruntime's elementwise ops in float16. What a launch
 * costs by itself, and what the cache keeps, is in neither. `--target cuda-fused-stock` counts convolutions by
 * onnxruntime's own op instead of cuDNN's functions. The last line is one JSON object.
 */

import { advcl } from "../../graphs/methods/advcl.ts";
import { dtypes } from "../../graphs/onnx/dtype.ts";
import {
  constantInts,
  isAbsent,
  isConstant,
  isInput,
  type Node,
  nodesOf,
  type Subgraph,
  type Value,
} from "../../graphs/onnx/graph.ts";
import { loopDefinition } from "../../graphs/ops/index.ts";
import { callOf, type Kernel, kernelOf, namesOf } from "../../graphs/targets/cuda/kernels/kernel.ts";
import { nhwcConv, nhwcConvGradWeight } from "../../graphs/targets/cuda/kernels/nhwc-conv.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { targetNamed } from "../../src/engine/targets.ts";
import { readFlags } from "../flags.ts";
import { goldenOptions } from "../parity/golden.ts";

const { values: flags } = readFlags(import.meta.url, {
  options: {
    target: { type: "string", default: "cuda" },
    batch: { type: "string", default: "512" },
    width: { type: "string", default: "64" },
    bandwidth: { type: "string", default: "3350" },
    flops: { type: "string", default: "495" },
  },
});

interface Count {
  nodes: number;
  bytes: number;
  flops: number;
}
/**
 * Rates reached on one H200, bytes as they are counted here: TB/s, and TFLOP/s of products: in float16 as the floor there is
 * reckoned, in TF32 by 20.5 TFLOP in 93 ms.
 */
const reached = { copy: 4.3, elementwise: 2.4, float16: 500, float32: 220 };
/** Seconds of all products by these rates. */
let productSeconds = 0;

const counts = new Map<string, Count>();
/** The same memory under another shape. */
const views = new Set(["Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze"]);
const bytesOf = ({ size, dtype }: Value): number => size * dtypes[dtype].array.BYTES_PER_ELEMENT;

const flopsOf = ({ definition: { name }, inputs, outputs, attributes }: Node): number => {
  const [a, b, y] = [inputs[0], inputs[1], outputs[0]] as [Value, Value, Value];
  if (name === "nhwcConvForward") return 2 * y.size * b.dim(1) * b.dim(2) * b.dim(3);
  if (name === "nhwcConvGradInput") return 2 * a.size * b.dim(1) * b.dim(2) * b.dim(3);
  if (name === "nhwcConvGradWeight") return 2 * b.size * y.dim(1) * y.dim(2) * y.dim(3);
  if (name === "Conv") return 2 * y.size * b.dim(1) * b.dim(2) * b.dim(3);
  if (name === "ConvTranspose") return 2 * a.size * b.dim(1) * b.dim(2) * b.dim(3);
  if (name === "MatMul") return 2 * y.size * a.dim(-1);
  if (name === "Gemm") return 2 * y.size * a.dim(attributes.transA ? 0 : 1);
  return 0;
};

/** Channels last, a 1×1 convolution with stride leaves whole pixels unread: hundreds of bytes in a row. */
const unread = ({ definition, inputs, attributes }: Node): number => {
  const [x, w] = inputs as [Value, Value];
  const kernel =
    definition === nhwcConv.definition
      ? w.shape.slice(2)
      : definition === nhwcConvGradWeight.definition
        ? attributes.kernel
        : [];
  if ((kernel as readonly number[]).join() !== "1,1") return 0;
  const seen = (attributes.strides as readonly number[]).reduce((product, stride) => product * stride, 1);
  return bytesOf(x) * (1 - 1 / seen);
};

/** A kernel goes through its arguments as often as its launches say. */
const kernelBytes = (kernel: Kernel, node: Node): number => {
  const call = callOf(node);
  const names = namesOf(kernel.arguments(call));
  const values = [...node.inputs.filter((x) => !isAbsent(x)), ...node.outputs];
  const bytes = (name: string) => values.reduce((sum, value, i) => sum + (names[i] === name ? bytesOf(value) : 0), 0);
  return kernel
    .launches(call)
    .reduce((sum, { reads, writes }) => sum + [...reads, ...writes].reduce((part, name) => part + bytes(name), 0), 0);
};

const count = (nodes: readonly Node[], times: number): void => {
  for (const node of nodes) {
    const { definition, inputs, outputs, attributes } = node;
    if (isInput(outputs[0]!)) continue;
    if (definition === loopDefinition) {
      const body = attributes.body as unknown as Subgraph;
      count(nodesOf(body.outputs, body.frame), times * constantInts(inputs[0]!, "iterations")[0]!);
      continue;
    }
    const found = counts.get(definition.name) ?? { nodes: 0, bytes: 0, flops: 0 };
    counts.set(definition.name, found);
    found.nodes += times;
    found.flops += times * flopsOf(node);
    if (views.has(definition.name)) continue;
    const kernel = kernelOf(definition);
    if (kernel !== undefined) {
      found.bytes += times * kernelBytes(kernel, node);
      continue;
    }
    const written = outputs.reduce((sum, y) => sum + bytesOf(y), 0);
    // What takes a part reads that part; scalars and small constants count as little as they are.
    const read = /^(Slice|Split|Gather)$/.test(definition.name)
      ? written
      : inputs.filter((x) => !isAbsent(x) && !isConstant(x)).reduce((sum, x) => sum + bytesOf(x), 0) - unread(node);
    found.bytes += times * (read + written);
    const flops = flopsOf(node);
    const speed = inputs[0]!.dtype === "float16" ? reached.float16 : reached.float32;
    if (flops > 0) productSeconds += times * Math.max(flops / (speed * 1e12), (read + written) / (reached.copy * 1e12));
  }
};
const step = advcl.build({ ...goldenOptions, trace: false, batch: Number(flags.batch), width: Number(flags.width) });
const target = targetNamed(flags.target);
const lowered = lower(step.outputs, target);
// Shapes that a target hides are none of a GPU's.
count(nodesOf(Object.values(target.kernels === undefined ? lowered : (target.rewrite?.(lowered) ?? lowered)), null), 1);

const bandwidth = Number(flags.bandwidth) * 1e9;
const rate = Number(flags.flops) * 1e12;
const total: Count = { nodes: 0, bytes: 0, flops: 0 };
const products = { bytes: 0 };
console.log(
  `${"op".padEnd(22)}${"nodes".padStart(8)}${"GB".padStart(10)}${"ms to move".padStart(12)}${"TFLOP".padStart(9)}${"ms to compute".padStart(15)}`,
);
const row = (name: string, { nodes, bytes, flops }: Count) =>
  console.log(
    `${name.padEnd(22)}${String(nodes).padStart(8)}${(bytes / 1e9).toFixed(2).padStart(10)}${((bytes / bandwidth) * 1e3).toFixed(1).padStart(12)}` +
      (flops > 0 ? `${(flops / 1e12).toFixed(2).padStart(9)}${((flops / rate) * 1e3).toFixed(1).padStart(15)}` : ""),
  );
for (const [name, found] of [...counts].sort((a, b) => b[1].bytes - a[1].bytes)) {
  row(name, found);
  total.nodes += found.nodes;
  total.bytes += found.bytes;
  total.flops += found.flops;
  if (found.flops > 0) products.bytes += found.bytes;
}
row("all", total);
const others = total.bytes - products.bytes;
console.log(`outside convolutions and matrix products: ${(others / 1e9).toFixed(0)} GB`);
const predicted = [reached.copy, reached.elementwise].map((rate) => productSeconds + others / (rate * 1e12));
console.log(
  `predicted on one H200 by rates reached there: ${predicted.map((s) => s.toFixed(3)).join(" to ")} s a step, ` +
    `${productSeconds.toFixed(3)} s of it convolutions and matrix products`,
);
console.log(
  JSON.stringify({
    target: flags.target,
    ...total,
    bytesOutsideProducts: others,
    predicted,
    byOp: Object.fromEntries(counts),
  }),
);
