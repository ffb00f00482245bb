/** Import of weights from elsewhere as a run folder. */
import { z } from "zod";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";
import { readWeights } from "../files/weights.ts";
import { type Network, networkRecord } from "../runs/network.ts";
import { path, setting } from "../settings/schema.ts";
import type { Resolved } from "../settings/spec.ts";
import { defineVerb, type VerbContext } from "../verbs/verb.ts";
import { type MatchedWeights, matchWeights } from "./import-layout.ts";

const importSettings = {
  from: setting(path(), "safetensors, .pt or .pth file", { path: true }),
  key: setting(z.string().optional(), "of a PyTorch checkpoint: which of its dictionaries (default: told)"),
  size: setting(z.int().min(8).max(1024).optional(), "side of the images (default: 32, with a 7×7 stem 224)"),
  branches: setting(
    z.array(z.string()).optional(),
    "names of the batch-norm branches in order (default: normal, pgd, pgd_ce)",
  ),
  branch: setting(z.string().optional(), "branch that finetuning and evaluation take (default: pgd)"),
  dataset: setting(z.string().optional(), "dataset that the weights were trained on, to be recorded"),
  method: setting(z.string().optional(), "method that the weights were trained by, to be recorded"),
};

type Settings = Resolved<typeof importSettings>;

/** What was imported, and the network that it is. */
export interface ImportResult extends Network {
  /** The run folder. */
  readonly out: string;
  /** Number of tensors that the network reads: all of them were found. */
  readonly matched: number;
  /** Names of tensors that are kept but not used. */
  readonly unused: readonly string[];
  /** K of each clustering head. */
  readonly clusters: readonly number[];
  /** Classes of the classifier; null where there is none. */
  readonly classes: number | null;
}

const describe = ({ network, projector, clusters, classes }: MatchedWeights): string =>
  [
    `ResNet-${network.depth} of width ${network.width}`,
    network.branches === undefined ? "one batch-norm branch" : `branches ${network.branches.join(", ")}`,
    ...(projector ? ["projector"] : []),
    ...(clusters.length > 0 ? [`clustering heads of ${clusters.join(", ")}`] : []),
    ...(classes === undefined ? [] : [`classifier of ${classes} classes`]),
  ].join("; ");

const run = async (settings: Settings, context: VerbContext): Promise<ImportResult> => {
  const { from } = settings;
  const file = await readWeights(from, settings.key === undefined ? {} : { key: settings.key });
  const others = file.others.length === 0 ? "" : ` (--key takes another: ${file.others.join(", ")})`;
  context.log(`${from} is ${file.description}${others}`);
  if (file.tensors.size === 0) throw new RequestError(`${from} holds no tensors; give the file of a network`);
  const found = matchWeights(file.tensors, { ...settings, source: from });
  const { network, weights, statistics, extras, clusters, classes } = found;
  const folder = await context.openRun();
  const tensors = new Map<string, Tensor>(
    Array.from(weights, ([name, value]) => [`${statistics.has(name) ? "state" : "param"}.${name}`, value] as const),
  );
  for (const [name, value] of extras) tensors.set(`extra.${name}`, value);
  const state = { network: networkRecord(network), clusters, source: from, metadata: file.metadata };
  await folder.save({ epoch: 0, step: 0, state, tensors });
  const unused = [...extras.keys()].filter((name) => !name.endsWith("num_batches_tracked"));
  context.print(`${folder.path}: ${weights.size} of ${weights.size} tensors matched: ${describe(found)}`);
  if (unused.length > 0) context.log(`kept but not used: ${unused.join(", ")}`);
  return { out: folder.path, matched: weights.size, unused, clusters, classes: classes ?? null, ...network };
};

/**
 * Turns weights in PyTorch's names (`from`: safetensors or a PyTorch checkpoint) into a run folder (`out`).
 *
 * @throws RequestError that lists every tensor that does not fit
 */
export const importWeights = defineVerb({ name: "import", settings: importSettings }, run);
