/** Weights as PyTorch's networks load them with strict=True. */
import { float32, type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { usualName } from "./import/names.ts";
import type { Source } from "./source.ts";

export const layouts = ["authors", "torchvision"] as const;
export type WeightLayout = (typeof layouts)[number];

/** The counters that PyTorch's batch norms have besides: what the run keeps of them, else its number of steps. */
const counters = (names: Iterable<string>, kept: ReadonlyMap<string, Tensor>, steps: number): Map<string, Tensor> => {
  const counts = new Map<string, Tensor>();
  for (const name of names)
    if (name.endsWith(".running_mean")) {
      const counter = name.replace(/running_mean$/, "num_batches_tracked");
      counts.set(counter, kept.get(`extra.${counter}`) ?? tensor("int64", [], BigInt64Array.of(BigInt(steps))));
    }
  return counts;
};

/** Whether a run holds every batch-norm branch of its network: what is finetuned keeps one. */
export const isWhole = ({ weights, network }: Pick<Source, "weights" | "network">): boolean =>
  (network.branches ?? []).every((_, i) => weights.has(`bn1.bn_list.${i}.weight`));

/** The normalisation of a network as the buffers that ACL's and DynACL's code have. */
const normalising = ({ normalisation }: Source["network"]): [string, Tensor][] =>
  Object.entries(normalisation ?? {}).map(([part, values]) => [`normalize.${part}`, float32([3], values)]);

/**
 * All weights of a run by the names of the authors' code: every branch and head, and what was imported without use, so
 * that weights that came in go out with the same bytes.
 */
export const authorsWeights = ({
  weights,
  run,
  network,
}: Pick<Source, "weights" | "run" | "network">): Map<string, Tensor> => {
  const { tensors, step } = run.checkpoint;
  const all = new Map([...normalising(network), ...weights, ...counters(weights.keys(), tensors, step)]);
  for (const [name, value] of tensors) if (name.startsWith("extra.")) all.set(name.slice("extra.".length), value);
  return all;
};

/**
 * One branch as torchvision's ResNet of that depth has it, or RobustBench's PreAct-ResNet or WideResNet: the encoder, and a
 * classifier's `fc`.
 */
export const torchvisionWeights = (
  { weights, branch, run, network }: Pick<Source, "weights" | "branch" | "run" | "network">,
  classifier: boolean,
): Map<string, Tensor> => {
  const chosen = new Map<string, Tensor>();
  const ours = branch === undefined ? undefined : `.bn_list.${branch.index}.`;
  const { tensors, step } = run.checkpoint;
  for (const [name, value] of [...weights, ...counters(weights.keys(), tensors, step)]) {
    if (/^(head_proj\.|fc_\d)/.test(name) || (name.startsWith("fc.") && !classifier)) continue;
    if (!name.includes(".bn_list.")) chosen.set(name, value);
    else if (ours !== undefined && name.includes(ours)) chosen.set(name.replace(ours, "."), value);
  }
  return new Map(Array.from(chosen, ([name, value]) => [usualName(name, network.arch), value]));
};
