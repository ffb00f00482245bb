/** One AdvCL step on given weights and a given batch, for comparisons with other programs. */

import { z } from "zod";
import { advcl, advclBranches } from "../../graphs/methods/advcl.ts";
import { headName } from "../../graphs/nn/head.ts";
import { float32, type Tensor, typeName, zeros } from "../../graphs/onnx/tensor.ts";
import { fedBackTo, feedName, metricsOf, paramName, pathOf, stateName } from "../../graphs/steps/names.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { chooseEngine } from "../engine/engine.ts";
import { listed, RequestError } from "../errors.ts";
import { checkWritable } from "../files/atomic.ts";
import { readSafetensors, writeSafetensors } from "../files/safetensors.ts";
import { type Network, networkDefaultsOf, shapeOf } from "../runs/network.ts";
import { networkHelp, networkSettings, targetSetting } from "../settings/fragments.ts";
import { path, setting } from "../settings/schema.ts";
import type { Resolved } from "../settings/spec.ts";
import { defineVerb } from "../verbs/verb.ts";
import { pretrainSettings } from "./pretrain-settings.ts";

/** A fragment's setting under the heading of all others here. */
const plain = <Schema extends z.ZodType>(schema: Schema, help: string): Schema => setting(schema, help);

const { attack, attackSteps, eps, stepSize, highFrequency, radius } = pretrainSettings;
const { clusterWeight, temperature, baseTemperature } = pretrainSettings;

export const stepSettings = {
  weights: setting(path(), "safetensors with every parameter and statistic by PyTorch name", { path: true }),
  batchFile: setting(path(), "safetensors with clean, view1, view2, start_cl, start_ce and label_KKK", {
    path: true,
    aliases: ["batch"],
  }),
  out: setting(path(), "safetensors to write the results to", { path: true }),
  target: plain(targetSetting.target, "lowering of the graph; left out, that of the provider"),
  arch: plain(networkSettings.arch, networkHelp.arch),
  depth: plain(networkSettings.depth, networkHelp.depth),
  width: plain(networkSettings.width, networkHelp.width),
  stem: plain(networkSettings.stem, networkHelp.stem),
  highFrequency: plain(highFrequency, "the high-frequency view"),
  radius: plain(radius, "radius of the removed frequencies, pixels"),
  clusterWeight: plain(clusterWeight, "weight of the clustering loss"),
  temperature: plain(temperature, "of the contrastive loss"),
  baseTemperature: plain(baseTemperature, "SupCon's, which scales the loss"),
  attack: plain(attack, "the attack"),
  attackSteps: plain(attackSteps, "PGD steps of the attack"),
  eps: plain(eps, "radius of the L-inf ball"),
  stepSize: plain(stepSize, "of a PGD step"),
  lr: setting(z.number().min(0).default(0.1), "learning rate"),
  momentum: plain(pretrainSettings.momentum, "of SGD; momenta start at 0"),
  weightDecay: plain(pretrainSettings.weightDecay, "on every parameter"),
};

type Settings = Resolved<typeof stepSettings>;

export interface StepResult {
  /** The file of everything that was computed: metric.*, attack.*, grad.* and after.* of parameters and statistics. */
  readonly out: string;
  readonly provider: string;
  readonly target: string;
  readonly metrics: Readonly<Record<string, number>>;
  /** Names of the clustering heads. */
  readonly heads: readonly string[];
}

type Tensors = ReadonlyMap<string, Tensor>;

/** Names that a file of weights may hold besides what the step reads: counters of PyTorch's batch norm, unused heads. */
const ignored = /(^|\.)num_batches_tracked$|^head_(ce|pred)\./;

/** Integers of another width as int32, which labels are; anything else as it is. */
const asDtype = (value: Tensor, dtype: Tensor["dtype"]): Tensor =>
  dtype === "int32" && (value.dtype === "int64" || value.dtype === "uint8")
    ? { dtype, shape: value.shape, data: Int32Array.from(value.data as BigInt64Array, Number) }
    : value;

/** The step that a batch asks for: its images' number and size, and its labels' K. */
const buildStep = (settings: Settings, batch: Tensors): { program: Step; clusters: readonly number[] } => {
  const clean = batch.get("clean");
  if (clean === undefined || clean.shape.length !== 4 || clean.shape[2] !== clean.shape[3])
    throw new RequestError(`${settings.batchFile} has no square images as clean [B,3,S,S]; write them under that name`);
  const [rows = 0, , , size = 0] = clean.shape;
  const clusters = [...batch.keys()]
    .flatMap((name) => (/^label_\d+$/.test(name) ? [Number(name.slice(6))] : []))
    .sort((a, b) => a - b);
  const network: Network = {
    ...shapeOf(settings, size),
    size,
    branches: advclBranches,
    evaluatedBranch: "pgd",
  };
  const radius = settings.highFrequency ? settings.radius : 0;
  return { program: advcl.build({ ...settings, ...network, batch: rows, clusters, radius, trace: true }), clusters };
};

/** What the step reads, from the two files; all that does not fit is listed in one refusal. */
const feedsOf = ({ store }: Step, settings: Settings, weights: Tensors, batch: Tensors): Record<string, Tensor> => {
  const { weights: weightsFile, batchFile } = settings;
  const feeds: Record<string, Tensor> = { "input.lr": float32([], [settings.lr]) };
  const wrong: string[] = [];
  const take = (
    [file, tensors]: readonly [string, Tensors],
    name: string,
    feed: string,
    type: Pick<Tensor, "dtype" | "shape">,
  ): void => {
    const value = tensors.get(name);
    const converted = value === undefined ? undefined : asDtype(value, type.dtype);
    if (converted === undefined) wrong.push(`${file} lacks ${name}`);
    else if (typeName(converted) !== typeName(type))
      wrong.push(`${name} is ${typeName(converted)} and should be ${typeName(type)}`);
    else feeds[feed] = converted;
  };
  for (const name of weights.keys())
    if (!store.parameters.has(name) && !store.states.has(name) && !ignored.test(name))
      wrong.push(`${name} is not of this network`);
  const fromWeights = [weightsFile, weights] as const;
  for (const { path: name, type } of store.parameters.values()) take(fromWeights, name, paramName(name), type);
  for (const { path: name, type } of store.states.values())
    if (name.startsWith("momentum.")) feeds[stateName(name)] = zeros(type.dtype, type.shape);
    else take(fromWeights, name, stateName(name), type);
  for (const [name, value] of store.inputs) if (name !== "lr") take([batchFile, batch], name, feedName(name), value);
  if (wrong.length > 0)
    throw new RequestError(
      `the files do not fit the step: ${listed(wrong)}; give the weights of this network and a whole batch`,
    );
  return feeds;
};

/** Results under the names of the file: `next.param.…` and `next.state.…` as `after.…`, momenta left out. */
const nameResults = (results: Readonly<Record<string, Tensor>>): Record<string, Tensor> => {
  const named: Record<string, Tensor> = {};
  for (const [name, value] of Object.entries(results)) {
    const fed = fedBackTo(name);
    const after = fed === undefined ? undefined : pathOf(fed);
    if (after === undefined) named[name] = value.shape.length === 0 ? { ...value, shape: [1] } : value;
    else if (!after.startsWith("momentum.")) named[`after.${after}`] = value;
  }
  return named;
};

/**
 * Runs one AdvCL step on tensors from files and writes everything it computed.
 *
 * @throws RequestError where the files do not fit the step
 */
export const step = defineVerb(
  { name: "step", settings: stepSettings, complete: ({ arch }) => networkDefaultsOf(arch) },
  async (settings, context): Promise<StepResult> => {
    const { out } = settings;
    await checkWritable(out);
    const weights = (await readSafetensors(settings.weights)).tensors;
    const batch = (await readSafetensors(settings.batchFile)).tensors;
    const { program, clusters } = buildStep(settings, batch);
    const engine = await chooseEngine(settings);
    const feeds = feedsOf(program, settings, weights, batch);
    const { session } = await engine.load(program);
    const results = await session.run(feeds);
    await session.release();
    const named = nameResults(results);
    await writeSafetensors(out, named);
    const metrics = metricsOf(named);
    const figures = Object.entries(metrics).map(([name, value]) => `${name} ${value}`);
    context.print(`${out}: ${figures.join(", ")}`);
    return { out, provider: engine.provider, target: engine.target.name, metrics, heads: clusters.map(headName) };
  },
);
