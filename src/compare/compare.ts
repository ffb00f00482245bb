/** Methods under one budget: each is pretrained, finetuned and attacked with several seeds. */
import { join } from "node:path";
import { z } from "zod";
import { cluster } from "../cluster/cluster.ts";
import { type DatasetName, datasetNames } from "../data/dataset.ts";
import { RequestError } from "../errors.ts";
import { evaluate } from "../evaluate/evaluate.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { writeSealed } from "../files/seal.ts";
import { loadPlugins } from "../plugins/plugins.ts";
import { writeReport } from "../report/write.ts";
import { networkDefaultsOf } from "../runs/network.ts";
import {
  datasetSettings,
  networkHelp,
  networkSettings,
  pluginSetting,
  targetSetting,
  workersSetting,
} from "../settings/fragments.ts";
import { nearestName, readObject } from "../settings/resolve.ts";
import { path, setting } from "../settings/schema.ts";
import type { Given, Resolved } from "../settings/spec.ts";
import { checkOptions } from "../train/feeds.ts";
import { finetune } from "../train/finetune.ts";
import type { SchemeName } from "../train/finetune-settings.ts";
import { pretrain } from "../train/pretrain.ts";
import type { pretrainSettings } from "../train/pretrain-settings.ts";
import { scaledMilestones } from "../train/schedule.ts";
import { defineVerb, Interrupted, type VerbContext } from "../verbs/verb.ts";
import { openPipeline, type Pipeline, resuming } from "./pipeline.ts";
import { type Cell, printTable, type Row, rowsOf } from "./table.ts";
import { ablations, parseVariant, slug, sourceOf, type Variant, wantsClusters } from "./variant.ts";

const schemeNames = ["slf", "alf", "aff"] as const satisfies SchemeName[];

const what = { group: "What" };
const data = { group: "Data" };
const budget = { group: "Budget" };
const run = { group: "Run" };

export const compareSettings = {
  methods: setting(
    z.array(z.string()).default(["simclr", "acl", "advcl"]),
    "what to compare: methods of pretrain, changed as in advcl/no-clusters or advcl/radius=4/clusters=2+10",
    what,
  ),
  schemes: setting(z.array(z.string()).default(["slf", "aff"]), "of finetuning: slf, alf, aff", what),
  datasets: setting(z.array(z.string()).default([]), "to finetune on; left out, that of pretraining", what),
  seeds: setting(z.array(z.int().min(0)).default([0, 1]), "of which each method gets all", what),
  autoattack: setting(z.boolean().default(false), "also accuracy under AutoAttack", what),
  dataset: setting(datasetSettings.dataset, "to pretrain on", data),
  data: setting(datasetSettings.data, "folder that holds all datasets", { ...data, path: true }),
  skipBroken: datasetSettings.skipBroken,
  limit: setting(z.int().min(0).default(0), "N images, a sample of every class; 0 for all", data),
  testLimit: setting(z.int().min(0).default(0), "N test images, a sample of every class; 0 for all", data),
  size: setting(z.int().min(0).max(512).default(0), "resize images; 0 leaves them", data),
  clusters: setting(z.array(z.int().min(2)).default([2, 10, 50, 100, 500]), "K of AdvCL's heads", data),
  pseudoLabels: setting(
    path().optional(),
    "labels for AdvCL; left out, a simclr run of the same budget and seed is clustered",
    { ...data, path: true },
  ),
  arch: setting(networkSettings.arch, networkHelp.arch, budget),
  depth: setting(networkSettings.depth, networkHelp.depth, budget),
  width: setting(networkSettings.width, networkHelp.width, budget),
  epochs: setting(z.int().min(1).default(1000), "of pretraining", budget),
  batch: setting(z.int().min(2).default(512), "of pretraining", budget),
  attackSteps: setting(z.int().min(0).optional(), "of attacks in pretraining; left out, each paper's", budget),
  scaleRates: setting(
    z.boolean().default(true),
    "each paper's rate in proportion to the batch, and its warm-up to the epochs",
    budget,
  ),
  finetuneEpochs: setting(z.int().min(1).default(25), "of finetuning", budget),
  finetuneBatch: setting(z.int().min(2).optional(), "of finetuning; left out, each scheme's", budget),
  finetuneLr: setting(z.number().min(0).optional(), "of finetuning; left out, each scheme's", budget),
  finetuneLimit: setting(z.int().min(0).default(0), "N training images, a sample of every class", budget),
  workers: setting(workersSetting.workers.unwrap().optional(), "threads that augment", { ...run, changeable: true }),
  target: setting(targetSetting.target, "lowering of the graphs", { ...run, changeable: true }),
  ...pluginSetting,
  out: setting(path(), "folder to write to; what it holds already is not done again", { path: true }),
};

type Settings = Resolved<typeof compareSettings>;

export interface CompareResult {
  readonly out: string;
  /** Mean and spread over the seeds. */
  readonly rows: readonly Row[];
  /** Each classifier. */
  readonly cells: readonly Cell[];
}

/** More methods, seeds, schemes and datasets may be added to a comparison; its budget stays. */
const growing = ["methods", "seeds", "schemes", "datasets", "autoattack", "seed"];

/** The one of `known` that a text names. */
const named = <Name extends string>(setting: string, text: string, known: readonly Name[]): Name => {
  const name = known.find((candidate) => candidate === text);
  if (name === undefined) {
    const nearest = nearestName(text, known);
    throw new RequestError(
      `${setting} ${text}: choose among ${known.join(", ")}${nearest === undefined ? "" : `; did you mean ${nearest}?`}`,
    );
  }
  return name;
};

/** Settings of every part. */
const commonOf = ({ provider, threads, data, skipBroken }: Settings) => ({ provider, threads, data, skipBroken });

/** A paper's rates at the comparison's batch and epochs. */
const scaledRates = ({ definition: { paper } }: Variant, { batch, epochs, scaleRates }: Settings) => {
  if (!scaleRates) return {};
  const scale = batch / paper.batch;
  const warmup = paper.warmupEpochs < 0 ? (paper.batch > 256 ? 10 : 0) : paper.warmupEpochs;
  return {
    lr: paper.lr * scale,
    warmupFrom: paper.warmupFrom * scale,
    warmupEpochs: Math.round((warmup * epochs) / paper.epochs),
  };
};

/** The folder of a pretrained encoder. */
const encoderOf = async (variant: Variant, seed: number, settings: Settings, pipeline: Pipeline): Promise<string> => {
  const { dataset, limit, size, arch, depth, width, epochs, batch, attackSteps, workers, target } = settings;
  const name = `pretrain-${slug(variant.name)}-seed${seed}`;
  const out = join(settings.out, name);
  const clustered = wantsClusters(variant);
  await pipeline.once(name, pretrain, async () => {
    const given = {
      ...{
        ...commonOf(settings),
        method: variant.method,
        plugin: settings.plugin.length > 0 ? settings.plugin : undefined,
        dataset,
        limit,
        size,
        arch,
        depth,
        width,
        epochs,
        batch,
        seed,
      },
      ...{ attackSteps, workers, target, knnEvery: 0, ...scaledRates(variant, settings) },
      ...(clustered && { clusters: settings.clusters }),
      ...(clustered && { pseudoLabels: await labelsOf(seed, variant, settings, pipeline) }),
      ...(variant.definition.given && {
        teacher: await encoderOf(parseVariant("simclr"), seed, settings, pipeline),
      }),
    };
    // A variant's own settings are texts, which the verb reads and checks.
    return { ...given, ...variant.settings, out, ...resuming(out) } as Given<typeof pretrainSettings>;
  });
  return out;
};

/** Pseudo-labels of a seed: those given, or clusters of a simclr encoder under the same budget. */
const labelsOf = async (seed: number, variant: Variant, settings: Settings, pipeline: Pipeline): Promise<string> => {
  if (settings.pseudoLabels !== undefined) return settings.pseudoLabels;
  const own = variant.settings.clusters;
  const wanted = typeof own === "string" ? own.split(",").map(Number) : settings.clusters;
  const clusters = [...new Set([...settings.clusters, ...wanted])].sort((a, b) => a - b);
  const name = `labels-${clusters.join("-")}-seed${seed}`;
  const out = join(settings.out, `${name}.safetensors`);
  const { dataset, limit } = settings;
  await pipeline.once(name, cluster, async () => {
    const teacher = await encoderOf(parseVariant("simclr"), seed, settings, pipeline);
    return { ...commonOf(settings), teacher, dataset, limit, seed, clusters, out };
  });
  return out;
};

interface Classifier {
  readonly variant: Variant;
  readonly seed: number;
  readonly dataset: DatasetName;
  readonly scheme: SchemeName;
}

/** Accuracies of a finetuned encoder. */
const classify = async (
  { variant, seed, dataset, scheme }: Classifier,
  from: string,
  settings: Settings,
  pipeline: Pipeline,
): Promise<Cell["figures"]> => {
  const { workers, target, testLimit, finetuneEpochs: epochs } = settings;
  const { finetuneBatch: batch, finetuneLr: lr, finetuneLimit: limit } = settings;
  const name = `finetune-${slug(variant.name)}-${dataset}-${scheme}-seed${seed}`;
  const out = join(settings.out, name);
  const milestones = scaledMilestones(epochs);
  const { accuracy, robustAccuracy } = await pipeline.once(name, finetune, {
    ...{ ...commonOf(settings), scheme, from, dataset, seed, epochs, milestones, testLimit, workers, target },
    ...{ batch, lr, limit, out, evaluate: true, ...resuming(out) },
  });
  const figures = { SA: Number(accuracy), RA: Number(robustAccuracy) };
  if (!settings.autoattack) return figures;
  const { attacks } = await pipeline.once(`autoattack-${name}`, evaluate, {
    ...{ ...commonOf(settings), model: out, dataset, seed, limit: testLimit || undefined },
    attacks: ["clean", "autoattack"],
  });
  return { ...figures, AA: Number(attacks.autoattack?.accuracy) };
};

const writeTable = async (out: string, cells: readonly Cell[]): Promise<void> => {
  await writeFileAtomic(join(out, "table.md"), `${printTable(cells)}\n`);
  await writeSealed(join(out, "table.json"), { rows: rowsOf(cells), cells });
};

const perform = async (settings: Settings, context: VerbContext): Promise<CompareResult> => {
  const { out } = settings;
  const { plugin } = settings;
  const plugins = await loadPlugins(plugin);
  const variants = settings.methods.map((text) => parseVariant(text, plugins.methods));
  // What a variant asks of pretraining is looked at before anything is trained.
  const { spec } = pretrain;
  for (const { method, definition, settings: own } of variants) {
    const named = readObject(spec.name, spec.rows, { method, plugin }, "");
    checkOptions(definition, await spec.resolve([sourceOf(own), named], false));
  }
  const schemes = settings.schemes.map((scheme) => named("schemes", scheme, schemeNames));
  const asked = settings.datasets.length > 0 ? settings.datasets : [settings.dataset];
  const datasets = asked.map((dataset) => named("datasets", dataset, datasetNames));
  const pipeline = await openPipeline(
    { out, file: "compare.json", thing: "comparison", growing, plugins: plugins.files },
    context,
  );
  const cells: Cell[] = [];
  try {
    for (const seed of settings.seeds)
      for (const variant of variants) {
        const encoder = await encoderOf(variant, seed, settings, pipeline);
        for (const dataset of datasets)
          for (const scheme of schemes) {
            const figures = await classify({ variant, seed, dataset, scheme }, encoder, settings, pipeline);
            cells.push({ variant: variant.name, seed, dataset, scheme, figures });
            await writeTable(out, cells);
          }
      }
    await writeReport(out);
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    throw new Interrupted(`stopped; the same command goes on from what ${out} holds`);
  }
  context.print(printTable(cells));
  return { out, rows: rowsOf(cells), cells };
};

/**
 * Pretrains every method with every seed under one budget, finetunes by every scheme and tabulates accuracies. Results are
 * kept in `out` as they come; the same call goes on where it was stopped.
 *
 * @throws RequestError where the request is wrong, RunError where a part failed, Interrupted where the signal was aborted
 */
export const compare = defineVerb(
  {
    name: "compare",
    settings: compareSettings,
    presets: { ablations: { methods: ablations } },
    complete: ({ arch }) => networkDefaultsOf(arch),
  },
  perform,
);
