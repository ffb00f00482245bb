/** The kernels of a model (graphs/targets/cuda/kernels) as custom ops of onnxruntime, run by whoever launches them. */
import type { Node, Type } from "../../../graphs/onnx/graph.ts";
import type { Model } from "../../../graphs/onnx/write.ts";
import {
  callOf,
  fileName,
  type Kernel,
  type KernelCall,
  kernelOf,
} from "../../../graphs/targets/cuda/kernels/kernel.ts";
import type { CustomOp } from "./custom-op.ts";

/** Readies a kernel's launches; what it returns does them over these addresses, inputs then outputs, in a stream. */
export type Prepare = (kernel: Kernel, call: KernelCall) => (addresses: BigUint64Array, stream: bigint) => void;

/** Nodes of a model that are kernels, by their names in the file. */
export const kernelNodes = ({ nodes }: Model): ReadonlyMap<string, Node> =>
  new Map([...nodes].filter(([, { definition }]) => kernelOf(definition) !== undefined));

/** The programs that a model's kernels need, each once. */
export const kernelSources = (model: Model): readonly string[] => [
  ...new Set(
    [...kernelNodes(model).values()].map((node) => (kernelOf(node.definition) as Kernel).source(callOf(node))),
  ),
];

/** One custom op for each name in the file, whose nodes are readied by `prepare` when a session is made. */
export const kernelOps = (model: Model, provider: CustomOp["provider"], prepare: Prepare): readonly CustomOp[] => {
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
      const launch = prepare(kernelOf(found.definition) as Kernel, call);
      const shapes = call.outputs.map(({ shape }) => shape);
      return ({ inputs: given, output, stream }) =>
        launch(BigUint64Array.from([...given, ...shapes.map((shape, i) => output(i, shape))]), stream);
    };
    ops.set(name, { name, provider, inputs: dtypes(inputs), outputs: dtypes(outputs), create });
  }
  return [...ops.values()];
};
