/** The whole story on generated images, each part by the verb that does it. */
import { join } from "node:path";
import { z } from "zod";
import { cluster } from "../cluster/cluster.ts";
import { exportModel } from "../deploy/export.ts";
import { evaluate } from "../evaluate/evaluate.ts";
import { writeSealed } from "../files/seal.ts";
import { writeReport } from "../report/write.ts";
import { networkSettings, targetSetting, workersSetting } from "../settings/fragments.ts";
import { path, setting } from "../settings/schema.ts";
import type { Given, Resolved } from "../settings/spec.ts";
import { finetune } from "../train/finetune.ts";
import type { SchemeName } from "../train/finetune-settings.ts";
import { pretrain } from "../train/pretrain.ts";
import { scaledMilestones } from "../train/schedule.ts";
import { defineVerb, Interrupted, type Verb, type VerbContext } from "../verbs/verb.ts";
import { commandOf, openPipeline, type Pipeline, resuming } from "./pipeline.ts";
import { type Classifier, classifierTable, type Story, storyFile } from "./story.ts";
import { markdownTable } from "./table.ts";

const budget = { group: "Budget" };
const run = { group: "Run" };

const dataset = "textures";

export const demoSettings = {
  width: setting(networkSettings.width.unwrap().default(8), "channels of the first stage", budget),
  size: setting(z.int().min(8).max(512).default(16), "side of the images", budget),
  limit: setting(z.int().min(2).default(2048), "images to pretrain on, without labels", budget),
  labels: setting(z.int().min(2).default(100), "images of them whose labels every classifier learns from", budget),
  testLimit: setting(z.int().min(1).default(500), "test images", budget),
  clusters: setting(z.array(z.int().min(2)).default([10, 30]), "K of AdvCL's clustering heads", budget),
  teacherEpochs: setting(z.int().min(1).default(20), "of SimCLR, the teacher", budget),
  epochs: setting(z.int().min(1).default(20), "of AdvCL", budget),
  batch: setting(z.int().min(2).default(64), "images a step of pretraining", budget),
  finetuneEpochs: setting(z.int().min(1).default(120), "of each finetuning", budget),
  finetuneBatch: setting(z.int().min(2).default(100), "images a step of finetuning", budget),
  attackSteps: setting(z.int().min(0).default(4), "PGD steps in AdvCL, TRADES and AFF", budget),
  attacks: setting(
    z.array(z.string()).default(["clean", "fgsm", "pgd20", "apgd-ce"]),
    "attacks on the ordinary and the robust classifier, as of evaluate",
    budget,
  ),
  workers: setting(workersSetting.workers.unwrap().optional(), "threads that augment", { ...run, changeable: true }),
  target: setting(targetSetting.target, "lowering of the graphs", { ...run, changeable: true }),
  out: setting(path().default("artifacts/demo"), "folder to write to; what it holds already is not done again", {
    path: true,
  }),
};

type Settings = Resolved<typeof demoSettings>;

export interface DemoResult {
  readonly out: string;
  /** Accuracies of each classifier on the test images: clean, and under PGD-20. */
  readonly classifiers: readonly Classifier[];
  /** What was done, by which command, in how many seconds. */
  readonly parts: Story["parts"];
}

interface PartResult {
  readonly seconds: number;
  readonly testImages?: unknown;
  readonly accuracy?: unknown;
  readonly robustAccuracy?: unknown;
}

/** A part of the story: what it is for, and how it is done. */
interface Part {
  readonly name: string;
  readonly about: string;
  /** The command that does it. */
  readonly command: string;
  perform(pipeline: Pipeline): Promise<PartResult>;
}

type Shape = Readonly<Record<string, z.ZodType>>;

const part = <Own extends Shape, Result extends object>(
  name: string,
  about: string,
  verb: Verb<Own, Result>,
  settings: Given<Own>,
): Part => ({
  name,
  about,
  command: commandOf(verb.spec.name, settings),
  perform: (pipeline) => pipeline.once(name, verb, settings),
});

/** What pretraining begins with: a teacher, its clusters, AdvCL on them. Rates were chosen on images of seed 0. */
const pretrainingParts = (settings: Settings, at: (name: string) => string): Part[] => {
  const { seed, threads, provider, workers, target, width, size, limit, epochs, batch } = settings;
  const { teacherEpochs, attackSteps, clusters } = settings;
  const common = { dataset, seed, threads, provider } as const;
  const shared = { preset: "quick", ...common, limit, workers, target, width, size, batch };
  const labels = at("clusters.safetensors");
  const plainly = { optimizer: "sgd", schedule: "advcl", warmupEpochs: 0 } as const;
  const knnEvery = (all: number) => Math.max(1, Math.ceil(all / 5));
  return [
    part("simclr", "SimCLR without labels or attacks: the teacher, and AdvCL's rival", pretrain, {
      ...{ ...shared, method: "simclr", epochs: teacherEpochs, lr: 0.3, ...plainly, knnEvery: knnEvery(teacherEpochs) },
      ...{ out: at("simclr"), ...resuming(at("simclr")) },
    }),
    part("clusters", "its features, clustered: the pseudo-labels", cluster, {
      ...{ ...common, teacher: at("simclr"), limit, clusters, out: labels },
    }),
    part("advcl", "AdvCL: contrastive views, attacks, high frequencies, clusters", pretrain, {
      ...{ ...shared, epochs, lr: 0.05, radius: 4, attackSteps, clusters, pseudoLabels: labels },
      ...{ knnEvery: knnEvery(epochs), out: at("advcl"), ...resuming(at("advcl")) },
    }),
  ];
};

/** A classifier of the story. */
interface Contestant {
  readonly name: string;
  /** Its name in the report. */
  readonly title: string;
  readonly about: string;
  readonly scheme: SchemeName;
  /** The part whose encoder it begins with; undefined is from nothing. */
  readonly from?: "advcl" | "simclr" | "slf" | "slf-simclr";
}

/** AdvCL's classifiers, and the controls that a sceptic asks for; all learn from the same labels. */
const contestants: readonly Contestant[] = [
  {
    name: "slf",
    title: "AdvCL, linear head",
    about: "SLF: a linear head on AdvCL's encoder",
    scheme: "slf",
    from: "advcl",
  },
  {
    name: "slf-simclr",
    title: "SimCLR, linear head",
    about: "the same head on SimCLR's encoder",
    scheme: "slf",
    from: "simclr",
  },
  { name: "standard", title: "ordinary training", about: "ordinary training from nothing", scheme: "standard" },
  {
    name: "aff",
    title: "AdvCL, finetuned",
    about: "AFF: AdvCL's encoder and that head, finetuned under attack (TRADES)",
    scheme: "aff",
    from: "slf",
  },
  {
    name: "aff-simclr",
    title: "SimCLR, finetuned",
    about: "SimCLR's encoder, finetuned in the same way",
    scheme: "aff",
    from: "slf-simclr",
  },
  { name: "trades", title: "TRADES from nothing", about: "TRADES from nothing", scheme: "trades" },
];

const finetuningParts = (settings: Settings, at: (name: string) => string): Part[] => {
  const { seed, threads, provider, workers, target, width, size, labels: limit, testLimit, attackSteps } = settings;
  const { finetuneEpochs: epochs, finetuneBatch: batch } = settings;
  const shared = {
    ...({ dataset, seed, threads, provider } as const),
    ...{ limit, workers, target, testLimit, epochs, batch, milestones: scaledMilestones(epochs) },
  };
  return contestants.map(({ name, scheme, from, about }) =>
    part(name, about, finetune, {
      ...{ scheme, ...(from === undefined ? { width, size } : { from: at(from) }), ...shared },
      // A head that fits already is kept, and the rate halved, so that its first steps don't undo the encoder (Kumar et al. 2022).
      ...(scheme === "aff" ? { keepHead: true, lr: 0.05 } : { lr: 0.1 }),
      ...(scheme !== "slf" && scheme !== "standard" && { attackSteps }),
      ...{ evaluate: true, out: at(name), ...resuming(at(name)) },
    }),
  );
};

/** More attacks on two of the classifiers, and the robust one for other runtimes. */
const closingParts = (settings: Settings, at: (name: string) => string): Part[] => {
  const { seed, threads, provider, target, testLimit, attacks } = settings;
  const common = { dataset, seed, threads, provider } as const;
  return [
    ...["standard", "aff"].map((model) => {
      const out = at(`attacks-${model}`);
      const about = `more attacks on ${model === "aff" ? "the robust classifier" : "the ordinary classifier"}`;
      return part(`attacks-${model}`, about, evaluate, {
        ...{ ...common, target, model: at(model), attacks, limit: Math.min(100, testLimit), out, ...resuming(out) },
      });
    }),
    ...(["fp32", "int8"] as const).map((precision) =>
      part(`export-${precision}`, `the robust classifier as plain ONNX, ${precision}`, exportModel, {
        ...{ from: at("aff"), seed, threads, provider, precision, limit: testLimit },
        out: at(`classifier-${precision}.onnx`),
      }),
    ),
  ];
};

const printEnd = ({ out, classifiers, parts }: DemoResult, context: VerbContext): void => {
  const { head, rows } = classifierTable(classifiers);
  context.print(markdownTable(head, rows));
  const minutes = parts.reduce((sum, { seconds }) => sum + seconds, 0) / 60;
  context.print(`\n${join(out, "report.html")}: all of it, ${minutes.toFixed(1)} minutes of work`);
  const robust = join(out, "aff");
  context.print(
    [
      "next:",
      `  npx advcl serve --from ${robust}   # attack and teach it in the browser`,
      `  npx advcl evaluate --model ${robust} --attacks autoattack --limit 50`,
      "  npx advcl pretrain --dataset folder --data DIR --out RUN   # on your own images; --help has all settings",
    ].join("\n"),
  );
};

const classifierOf = (
  { name, title, about }: Contestant,
  { testImages, accuracy, robustAccuracy }: PartResult,
): Classifier => ({
  ...{ name, title, about, testImages: Number(testImages) },
  ...{ accuracy: Number(accuracy), robustAccuracy: Number(robustAccuracy) },
});

const perform = async (settings: Settings, context: VerbContext): Promise<DemoResult> => {
  const { out } = settings;
  const pipeline = await openPipeline({ out, file: "demo.json", thing: "demonstration" }, context);
  const at = (name: string): string => join(out, name);
  const parts = [pretrainingParts, finetuningParts, closingParts].flatMap((make) => make(settings, at));
  const done: Story["parts"][number][] = [];
  const classifiers: Classifier[] = [];
  try {
    for (const [i, { name, about, command, perform: once }] of parts.entries()) {
      context.log(`[${i + 1}/${parts.length}] ${about}`);
      const result = await once(pipeline);
      done.push({ name, about, command, seconds: result.seconds });
      const contestant = contestants.find((one) => one.name === name);
      if (contestant !== undefined) classifiers.push(classifierOf(contestant, result));
      await writeSealed(at(storyFile), { classifiers, parts: done });
    }
    await writeReport(out);
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    throw new Interrupted(`stopped; the same command goes on from what ${out} holds`);
  }
  const result = { out, classifiers, parts: done };
  printEnd(result, context);
  return result;
};

/**
 * The whole story in minutes: a teacher is trained and clustered, AdvCL pretrains, encoders are finetuned, attacked and
 * exported. What `out` holds already is not done again.
 *
 * @throws RequestError where the request is wrong, RunError where a part failed, Interrupted where the signal was aborted
 */
export const demo = defineVerb({ name: "demo", settings: demoSettings }, perform);
