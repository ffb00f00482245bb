/** Messages between ranks in a model (graphs/ops/ranks.ts) as custom ops of onnxruntime. */
import type { Node } from "../../../graphs/onnx/graph.ts";
import { sizeOf } from "../../../graphs/onnx/tensor.ts";
import type { Model } from "../../../graphs/onnx/write.ts";
import { allGather, allReduceSum, isCollective } from "../../../graphs/ops/ranks.ts";
import type { WithinProgram } from "../../distributed/collective.ts";
import type { CustomOp } from "./custom-op.ts";

/** How files name a message between ranks; undefined for other nodes. */
export const collectiveName = ({ definition }: Node): string | undefined =>
  isCollective(definition) ? definition.name : undefined;

/** Whether a model holds messages between ranks. */
export const speaks = ({ nodes }: Model): boolean => [...nodes.values()].some((node) => isCollective(node.definition));

/** On the CPU, wherever the rest is computed: onnxruntime copies what lies on a GPU to the host and back. */
const opOf = (model: Model, name: string, message: WithinProgram["sum"]): CustomOp => ({
  name,
  provider: "CPUExecutionProvider",
  inputs: ["float32", "float32"],
  outputs: ["float32"],
  create: (called) => {
    const node = model.nodes.get(called);
    if (node === undefined) throw new Error(`internal: the model has no message ${called}`);
    const [{ shape: given }, { shape: made }] = [node.inputs[0]!, node.outputs[0]!];
    const count = sizeOf(given);
    return ({ inputs: [from], output }) => message(from!, output(0, made), count);
  },
});

/** The custom ops of a model's messages, sent by `ranks`. */
export const collectiveOps = (model: Model, ranks: WithinProgram): readonly CustomOp[] =>
  speaks(model)
    ? [
        opOf(model, allReduceSum.definition.name, (...message) => ranks.sum(...message)),
        opOf(model, allGather.definition.name, (...message) => ranks.gather(...message)),
      ]
    : [];
