/** A model's kernels, and what cuDNN computes of it (graphs/targets/cuda/kernels), as custom ops of onnxruntime, run by whoever launches them. */
import type { Node, Type } from "../../../graphs/onnx/graph.ts";
import type { Model } from "../../../graphs/onnx/write.ts";
import {
  callOf,
  fileName,
  type Kernel,
  type KernelCall,
  kernelOf,
} from "../../../graphs/targets/cuda/kernels/kernel.ts";
import { type CudnnFunction, cudnnFunctions } from "../../../graphs/targets/cuda/kernels/nhwc-conv.ts";
import type { CustomOp } from "./custom-op.ts";

/** Computes a node over these addresses, inputs then outputs, in a stream. */
export type Compute = (addresses: BigUint64Array, stream: bigint) => void;

/** Readies a kernel's launches. */
export type Prepare = (kernel: Kernel, call: KernelCall) => Compute;

/** Readies one of cuDNN's functions. */
export type PrepareCudnn = (what: CudnnFunction, call: KernelCall) => Compute;

const noCudnn: PrepareCudnn = () => {
  throw new Error("internal: a model asks for cuDNN, which was not opened");
};

/** Nodes of a model that are kernels or cuDNN's, by their names in the file. */
export const kernelNodes = ({ nodes }: Model): ReadonlyMap<string, Node> =>
  new Map(
    [...nodes].filter(([, { definition }]) => kernelOf(definition) !== undefined || cudnnFunctions.has(definition)),
  );

/** The programs that a model's kernels need, each once. */
export const kernelSources = (model: Model): readonly string[] => [
  ...new Set([...kernelNodes(model).values()].flatMap((node) => kernelOf(node.definition)?.source(callOf(node)) ?? [])),
];

/** One custom op for each name in the file, whose nodes are readied when a session is made. */
export const kernelOps = (
  model: Model,
  provider: CustomOp["provider"],
  prepare: Prepare,
  prepareCudnn: PrepareCudnn = noCudnn,
): readonly CustomOp[] => {
  const nodes = kernelNodes(model);
  const ops = new Map<string, CustomOp>();
  for (const node of nodes.values()) {
    const name = fileName(node) as string;
    const { inputs, outputs } = callOf(node);
    const dtypes = (types: readonly Type[]) => types.map(({ dtype }) => dtype);
    const create: CustomOp["create"] = (called) => {
      const found = nodes.get(called);
      if (found === undefined) throw new Error(`internal: the model has no kernel ${called}`);
      const call = callOf(found);
      const what = cudnnFunctions.get(found.definition);
      const launch =
        what === undefined ? prepare(kernelOf(found.definition) as Kernel, call) : prepareCudnn(what, call);
      const shapes = call.outputs.map(({ shape }) => shape);
      return ({ inputs: given, output, stream }) =>
        launch(BigUint64Array.from([...given, ...shapes.map((shape, i) => output(i, shape))]), stream);
    };
    ops.set(name, { name, provider, inputs: dtypes(inputs), outputs: dtypes(outputs), create });
  }
  return [...ops.values()];
};
