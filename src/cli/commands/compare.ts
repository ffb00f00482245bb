import { join } from "node:path";
import { methods } from "../../../graphs/methods/index.ts";
import { flagsOf, Pipeline, resumeFlag, Stopped } from "../../compare/pipeline.ts";
import { type Cell, printTable, rowsOf } from "../../compare/table.ts";
import { ablations, parseVariant, slug, type Variant, wantsClusters } from "../../compare/variant.ts";
import { datasetNames } from "../../data/dataset.ts";
import { RequestError } from "../../errors.ts";
import { writeFileAtomic } from "../../files/atomic.ts";
import { writeReport } from "../../report/write.ts";
import { depthNames } from "../../runs/network.ts";
import type { SettingRows } from "../../settings/resolve.ts";
import { feeds } from "../../train/feeds.ts";
import { scaledMilestones } from "../../train/schedule.ts";
import { type CommandSettings, defineCommand } from "../command.ts";
import { cluster } from "./cluster.ts";
import { evaluate } from "./evaluate.ts";
import { finetune } from "./finetune.ts";
import { pretrain } from "./pretrain.ts";

const schemeNames = ["slf", "alf", "aff"] as const;

const rows = {
  methods: {
    type: "strings",
    default: ["simclr", "acl", "advcl"],
    help: "what to compare: methods of pretrain, changed as in advcl/no-clusters or advcl/radius=4/clusters=2+10",
    group: "What",
  },
  schemes: { type: "strings", default: ["slf", "aff"], help: "of finetuning: slf, alf, aff", group: "What" },
  datasets: { type: "strings", default: [], help: "to finetune on; left out, that of pretraining", group: "What" },
  seeds: { type: "integers", default: [0, 1], min: 0, help: "of which each method gets all", group: "What" },
  autoattack: { type: "boolean", default: false, help: "also accuracy under AutoAttack", group: "What" },
  dataset: { type: "enum", values: datasetNames, default: "cifar10", help: "to pretrain on", group: "Data" },
  data: { type: "path", help: "folder that holds all datasets", group: "Data" },
  limit: { type: "integer", default: 0, min: 0, help: "first N images only; 0 for all", group: "Data" },
  testLimit: { type: "integer", default: 0, min: 0, help: "first N test images only; 0 for all", group: "Data" },
  size: { type: "integer", default: 0, min: 0, max: 512, help: "resize images; 0 leaves them", group: "Data" },
  clusters: { type: "integers", default: [2, 10, 50, 100, 500], min: 2, help: "K of AdvCL's heads", group: "Data" },
  pseudoLabels: {
    type: "path",
    help: "labels for AdvCL; left out, a simclr run of the same budget and seed is clustered",
    group: "Data",
  },
  depth: { type: "enum", values: depthNames, default: "18", help: "layers of the ResNet", group: "Budget" },
  width: { type: "integer", default: 64, min: 1, max: 1024, help: "channels of the first stage", group: "Budget" },
  epochs: { type: "integer", default: 1000, min: 1, help: "of pretraining", group: "Budget" },
  batch: { type: "integer", default: 512, min: 2, help: "of pretraining", group: "Budget" },
  attackSteps: { type: "integer", min: 0, help: "of attacks in pretraining; left out, each paper's", group: "Budget" },
  scaleRates: {
    type: "boolean",
    default: true,
    help: "each paper's rate in proportion to the batch, and its warm-up to the epochs",
    group: "Budget",
  },
  finetuneEpochs: { type: "integer", default: 25, min: 1, help: "of finetuning", group: "Budget" },
  finetuneBatch: { type: "integer", min: 2, help: "of finetuning; left out, each scheme's", group: "Budget" },
  finetuneLr: { type: "number", min: 0, help: "of finetuning; left out, each scheme's", group: "Budget" },
  finetuneLimit: { type: "integer", default: 0, min: 0, help: "first N training images only", group: "Budget" },
  workers: { type: "integer", min: 0, max: 256, help: "threads that augment", group: "Run", changeable: true },
  target: { type: "string", help: "lowering of the graphs", group: "Run", changeable: true },
  out: { type: "path", required: true, help: "folder to write to; what it holds already is not done again" },
} as const satisfies SettingRows;

type Settings = CommandSettings<typeof rows>;

export const compare = defineCommand({
  name: "compare",
  summary: "methods under one budget: pretrain, finetune and attack each with several seeds",
  description:
    "Pretrains every method with every seed under the same budget, finetunes by every scheme, and prints one table, in a report too: accuracy on clean test images (SA), under PGD-20 (RA) and, where asked, under AutoAttack (AA), mean and spread over the seeds. Results are kept in --out as they come; the same command goes on where it was stopped.",
  settings: rows,
  presets: { ablations: { methods: ablations } },
  run: async (settings, context) => {
    const variants = settings.methods.map(parseVariant);
    // What a variant asks of pretraining is looked at before anything is trained.
    for (const { method, flags } of variants) await pretrain.resolve(["--method", method, ...flags], false);
    for (const scheme of settings.schemes)
      if (!schemeNames.some((name) => name === scheme))
        throw new RequestError(`schemes ${scheme}: choose among ${schemeNames.join(", ")}`);
    const datasets = settings.datasets.length > 0 ? settings.datasets : [settings.dataset];
    for (const dataset of datasets)
      if (!datasetNames.some((name) => name === dataset))
        throw new RequestError(`datasets ${dataset}: choose among ${datasetNames.join(", ")}`);
    const pipeline = new Pipeline(settings.out, context);
    await pipeline.claim("compare.json", "comparison", growing);
    const cells: Cell[] = [];
    const work = new Work(settings, pipeline);
    try {
      for (const seed of settings.seeds)
        for (const variant of variants) {
          const encoder = await work.encoder(variant, seed);
          for (const dataset of datasets)
            for (const scheme of settings.schemes) {
              const figures = await work.classifier(variant, seed, encoder, dataset, scheme);
              cells.push({ variant: variant.name, seed, dataset, scheme, figures });
              await writeTable(settings.out, cells);
            }
        }
      await writeReport(settings.out);
    } catch (error) {
      if (!(error instanceof Stopped)) throw error;
      context.log(`stopped; the same command goes on from what ${settings.out} holds`);
      return;
    }
    context.print(printTable(cells));
    context.result({ out: settings.out, rows: rowsOf(cells), cells });
  },
});

const writeTable = async (out: string, cells: readonly Cell[]): Promise<void> => {
  await writeFileAtomic(join(out, "table.md"), `${printTable(cells)}\n`);
  await writeFileAtomic(join(out, "table.json"), `${JSON.stringify({ rows: rowsOf(cells), cells }, null, 2)}\n`);
};

/** More methods, seeds, schemes and datasets may be added to a comparison; its budget stays. */
const growing = ["methods", "seeds", "schemes", "datasets", "autoattack", "seed"];

/** The parts of a comparison, each done once and remembered in the folder. */
class Work {
  private readonly settings: Settings;
  private readonly pipeline: Pipeline;

  constructor(settings: Settings, pipeline: Pipeline) {
    this.settings = settings;
    this.pipeline = pipeline;
  }

  /** Settings of every command. */
  private get common(): Readonly<Record<string, unknown>> {
    const { provider, threads, data } = this.settings;
    return { provider, threads, data };
  }

  /** The folder of a pretrained encoder. */
  async encoder(variant: Variant, seed: number): Promise<string> {
    const { settings, pipeline } = this;
    const { dataset, limit, size, depth, width, epochs, batch, attackSteps, workers, target } = settings;
    const name = `pretrain-${slug(variant.name)}-seed${seed}`;
    const folder = join(settings.out, name);
    const paper = {
      lr: 0.5,
      batch: 512,
      epochs: 1000,
      warmupEpochs: -1,
      warmupFrom: 0.01,
      ...feeds[variant.method].paper,
    };
    const scale = batch / paper.batch;
    const warm = paper.warmupEpochs < 0 ? (paper.batch > 256 ? 10 : 0) : paper.warmupEpochs;
    const rates = settings.scaleRates
      ? {
          lr: paper.lr * scale,
          warmupFrom: paper.warmupFrom * scale,
          warmupEpochs: Math.round((warm * epochs) / paper.epochs),
        }
      : {};
    await pipeline.once(name, pretrain, async () => [
      ...flagsOf({ ...this.common, method: variant.method, dataset, limit, size, depth, width, epochs, batch, seed }),
      ...flagsOf({ attackSteps, workers, target, knnEvery: 0, ...rates }),
      ...(wantsClusters(variant) && !variant.flags.includes("--clusters")
        ? flagsOf({ clusters: settings.clusters })
        : []),
      ...(wantsClusters(variant) ? flagsOf({ pseudoLabels: await this.labels(seed, variant) }) : []),
      ...(methods[variant.method].given ? flagsOf({ teacher: await this.encoder(parseVariant("simclr"), seed) }) : []),
      ...variant.flags,
      ...flagsOf({ out: folder }),
      ...resumeFlag(folder),
    ]);
    return folder;
  }

  /** Pseudo-labels of a seed: those given, or clusters of a simclr encoder under the same budget. */
  private async labels(seed: number, { flags }: Variant): Promise<string> {
    const { settings, pipeline } = this;
    if (settings.pseudoLabels !== undefined) return settings.pseudoLabels;
    const at = flags.indexOf("--clusters");
    const own = at < 0 ? settings.clusters : (flags[at + 1] as string).split(",").map(Number);
    const clusters = [...new Set([...settings.clusters, ...own])].sort((a, b) => a - b);
    const name = `labels-${clusters.join("-")}-seed${seed}`;
    const file = join(settings.out, `${name}.safetensors`);
    await pipeline.once(name, cluster, async () => {
      const teacher = await this.encoder(parseVariant("simclr"), seed);
      const { dataset, limit } = settings;
      return flagsOf({ ...this.common, teacher, dataset, limit, seed, clusters, out: file });
    });
    return file;
  }

  /** Accuracies of a finetuned encoder. */
  async classifier(variant: Variant, seed: number, encoder: string, dataset: string, scheme: string) {
    const { settings, pipeline } = this;
    const { workers, target, testLimit, finetuneEpochs: epochs } = settings;
    const name = `finetune-${slug(variant.name)}-${dataset}-${scheme}-seed${seed}`;
    const folder = join(settings.out, name);
    const { finetuneBatch: batch, finetuneLr: lr, finetuneLimit: limit } = settings;
    const milestones = scaledMilestones(epochs);
    const result = await pipeline.once(name, finetune, [
      ...flagsOf({
        ...this.common,
        scheme,
        from: encoder,
        dataset,
        seed,
        epochs,
        milestones,
        testLimit,
        workers,
        target,
      }),
      ...flagsOf({ batch, lr, limit, out: folder }),
      "--evaluate",
      ...resumeFlag(folder),
    ]);
    const figures = { SA: Number(result.accuracy), RA: Number(result.robustAccuracy) };
    if (!settings.autoattack) return figures;
    const attacked = await pipeline.once(
      `autoattack-${name}`,
      evaluate,
      flagsOf({
        ...this.common,
        model: folder,
        dataset,
        seed,
        limit: testLimit || undefined,
        attacks: "clean,autoattack",
      }),
    );
    const { autoattack } = attacked.attacks as Record<string, { accuracy: number }>;
    return { ...figures, AA: Number(autoattack?.accuracy) };
  }
}
