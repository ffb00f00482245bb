/** Import of weights from elsewhere as a run folder. */
import { z } from "zod";
import { encoderName } from "../../graphs/nn/encoder.ts";
import type { Normalisation } from "../../graphs/nn/normalisation.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { listed, RequestError } from "../errors.ts";
import { readWeights } from "../files/weights.ts";
import { type Network, networkRecord } from "../runs/network.ts";
import { path, setting } from "../settings/schema.ts";
import type { Resolved } from "../settings/spec.ts";
import { defineVerb, type VerbContext } from "../verbs/verb.ts";
import { placesIn } from "./import/find.ts";
import { type MatchedWeights, matchWeights } from "./import/match.ts";

const importSettings = {
  from: setting(path(), "safetensors, .pt or .pth file", { path: true }),
  key: setting(z.string().optional(), "of a PyTorch checkpoint: which of its dictionaries (default: told)"),
  prefix: setting(
    z.string().optional(),
    "before each name of the network, such as encoder_q (default: found and told)",
  ),
  leaveOut: setting(
    z.array(z.string()).optional(),
    "names, or beginnings of names, of tensors that are no part of the network",
  ),
  size: setting(z.int().min(8).max(1024).optional(), "side of the images (default: 32, with a 7×7 stem 224)"),
  mean: setting(
    z.array(z.number()).optional(),
    "of each channel, which the network wants taken off pixels in [0, 1], where the file doesn't hold it",
  ),
  std: setting(z.array(z.number()).optional(), "of each channel, which it wants them divided by then"),
  branches: setting(
    z.array(z.string()).optional(),
    "names of the batch-norm branches in order (default: normal, pgd, pgd_ce)",
  ),
  branch: setting(z.string().optional(), "branch that finetuning and evaluation take (default: pgd)"),
  classNames: setting(z.array(z.string()).optional(), "names of the classifier's classes in order, to be recorded"),
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
  /** Before each name of the network in the file. */
  readonly prefix: string;
  /** Names of tensors that are kept but not used. */
  readonly unused: readonly string[];
  /** Names of tensors that are no part of the network, by the rule that leaves them out. */
  readonly leftOut: Readonly<Record<string, readonly string[]>>;
  /** K of each clustering head. */
  readonly clusters: readonly number[];
  /** Classes of the classifier; null where there is none. */
  readonly classes: number | null;
}

const describe = ({ network, projector, clusters, classes }: MatchedWeights): string =>
  [
    `${encoderName(network)} of width ${network.width}`,
    network.branches === undefined ? "one batch-norm branch" : `branches ${network.branches.join(", ")}`,
    ...(network.normalisation === undefined ? [] : ["its own normalisation"]),
    ...(projector ? ["projector"] : []),
    ...(clusters.length > 0 ? [`clustering heads of ${clusters.join(", ")}`] : []),
    ...(classes === undefined ? [] : [`classifier of ${classes} classes`]),
  ].join("; ");

/** The normalisation that is asked for, of each channel. */
const askedNormalisation = ({ mean, std }: Settings): Normalisation | undefined => {
  if (mean === undefined && std === undefined) return undefined;
  const channels = (name: string, values: readonly number[]): readonly number[] => {
    if (values.length !== 1 && values.length !== 3)
      throw new RequestError(`--${name} has ${values.length} numbers but the images have 3 channels; give 1 or 3`);
    return values.length === 3 ? values : [values[0]!, values[0]!, values[0]!];
  };
  const deviations = channels("std", std ?? [1]);
  if (!deviations.every((value) => value > 0)) throw new RequestError("--std must be above 0");
  return { mean: channels("mean", mean ?? [0]), std: deviations };
};

/** Names that the classes are recorded by. */
const checkNames = ({ classNames, from }: Settings, classes: number | undefined): void => {
  if (classNames === undefined || classNames.length === classes) return;
  throw new RequestError(
    classes === undefined
      ? `--class-names are of a classifier, and ${from} holds none; leave them out`
      : `--class-names has ${classNames.length} names but the classifier in ${from} has ${classes} classes; name each`,
  );
};

const run = async (settings: Settings, context: VerbContext): Promise<ImportResult> => {
  const { from, key, classNames } = settings;
  const normalisation = askedNormalisation(settings);
  const file = await readWeights(from, { key, fits: (shapes) => placesIn(shapes).length > 0 });
  const others = file.others.length === 0 ? "" : ` (--key takes another: ${file.others.join(", ")})`;
  context.log(`${from} is ${file.description}${others}`);
  if (file.tensors.size === 0) throw new RequestError(`${from} holds no tensors; give the file of a network`);
  const found = matchWeights(file.tensors, { ...settings, normalisation, source: from });
  const { network, weights, statistics, extras, clusters, classes, prefix, leftOut } = found;
  checkNames(settings, classes);
  for (const note of found.notes) context.log(note);
  for (const { rule, names } of leftOut) context.log(`left out, ${rule}: ${listed(names)}`);
  const folder = await context.openRun();
  const tensors = new Map<string, Tensor>(
    Array.from(weights, ([name, value]) => [`${statistics.has(name) ? "state" : "param"}.${name}`, value] as const),
  );
  for (const [name, value] of extras) tensors.set(`extra.${name}`, value);
  const state = {
    ...{ network: networkRecord(network), clusters, source: from, metadata: file.metadata },
    ...(classNames && { classes: classNames }),
  };
  await folder.save({ epoch: 0, step: 0, state, tensors });
  const unused = [...extras.keys()].filter((name) => !name.endsWith("num_batches_tracked"));
  context.print(`${folder.path}: ${weights.size} of ${weights.size} tensors matched: ${describe(found)}`);
  if (unused.length > 0) context.log(`kept but not used: ${unused.join(", ")}`);
  const rules = Object.fromEntries(leftOut.map(({ rule, names }) => [rule, names]));
  const parts = { prefix, leftOut: rules, unused, clusters, classes: classes ?? null };
  return { out: folder.path, matched: weights.size, ...parts, ...network };
};

/**
 * Turns weights in PyTorch's names (`from`: safetensors or a PyTorch checkpoint) into a run folder (`out`).
 *
 * @throws RequestError that lists every tensor that does not fit
 */
export const importWeights = defineVerb({ name: "import", settings: importSettings }, run);
