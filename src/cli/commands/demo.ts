import { join } from "node:path";
import { flagsOf, Pipeline, resumeFlag, Stopped } from "../../compare/pipeline.ts";
import { type Classifier, classifierTable, type Story, storyFile } from "../../compare/story.ts";
import { markdownTable } from "../../compare/table.ts";
import { writeFileAtomic } from "../../files/atomic.ts";
import { writeReport } from "../../report/write.ts";
import type { SettingRows } from "../../settings/resolve.ts";
import { scaledMilestones } from "../../train/schedule.ts";
import { type Command, type CommandSettings, defineCommand } from "../command.ts";
import { cluster } from "./cluster.ts";
import { evaluate } from "./evaluate.ts";
import { exportCommand } from "./export.ts";
import { finetune } from "./finetune.ts";
import { pretrain } from "./pretrain.ts";

const rows = {
  width: { type: "integer", default: 8, min: 1, max: 1024, help: "channels of the first stage", group: "Budget" },
  size: { type: "integer", default: 32, min: 8, max: 512, help: "side of the images", group: "Budget" },
  limit: { type: "integer", default: 1024, min: 2, help: "images to train on", group: "Budget" },
  testLimit: { type: "integer", default: 200, min: 1, help: "test images", group: "Budget" },
  clusters: { type: "integers", default: [10, 30], min: 2, help: "K of AdvCL's clustering heads", group: "Budget" },
  teacherEpochs: { type: "integer", default: 4, min: 1, help: "of the teacher", group: "Budget" },
  epochs: { type: "integer", default: 8, min: 1, help: "of AdvCL", group: "Budget" },
  batch: { type: "integer", default: 16, min: 2, help: "images a step of pretraining", group: "Budget" },
  finetuneEpochs: { type: "integer", default: 8, min: 1, help: "of each finetuning", group: "Budget" },
  finetuneBatch: { type: "integer", default: 32, min: 2, help: "images a step of finetuning", group: "Budget" },
  attackSteps: { type: "integer", default: 4, min: 0, help: "PGD steps in AdvCL, ALF and AFF", group: "Budget" },
  attacks: {
    type: "strings",
    default: ["clean", "fgsm", "pgd20", "apgd-ce"],
    help: "attacks on the standard and the robust classifier, as of evaluate",
    group: "Budget",
  },
  workers: { type: "integer", min: 0, max: 256, help: "threads that augment", group: "Run", changeable: true },
  target: { type: "string", help: "lowering of the graphs", group: "Run", changeable: true },
  out: { type: "path", default: "artifacts/demo", help: "folder to write to; what it holds already is not done again" },
} as const satisfies SettingRows;

type Settings = CommandSettings<typeof rows>;

/** A part of the story: what it is for, and the command that does it. */
interface Part {
  readonly name: string;
  readonly about: string;
  readonly command: Command;
  readonly flags: readonly string[];
}

const schemes = [
  { name: "slf", about: "a linear head on AdvCL's encoder" },
  { name: "alf", about: "a linear head, trained under attack" },
  { name: "aff", about: "everything finetuned under attack, by TRADES" },
] as const;

const partsOf = (settings: Settings): Part[] => {
  const { out, seed, threads, provider, workers, target, width, size, limit, testLimit, epochs, batch } = settings;
  const { teacherEpochs, finetuneEpochs, finetuneBatch, attackSteps, clusters, attacks } = settings;
  const at = (name: string): string => join(out, name);
  const common = { dataset: "shapes", seed, threads, provider };
  const labels = at("clusters.safetensors");
  const training = { ...common, limit, workers, target };
  const pretraining = { preset: "quick", ...training, width, size, batch };
  const finetuning = { ...training, testLimit, epochs: finetuneEpochs, batch: finetuneBatch, lr: 0.1 };
  const milestones = scaledMilestones(finetuneEpochs);
  const trained = (part: Omit<Part, "flags">, settings: object, ...more: readonly string[]): Part => ({
    ...part,
    flags: [...flagsOf({ ...settings, out: at(part.name) }), ...more, ...resumeFlag(at(part.name))],
  });
  return [
    trained(
      { name: "teacher", about: "a teacher without labels: SimCLR", command: pretrain },
      {
        ...{ ...pretraining, method: "simclr", epochs: teacherEpochs },
        ...{ optimizer: "sgd", schedule: "advcl", warmupEpochs: 0 },
      },
    ),
    {
      name: "clusters",
      about: "its features, clustered: the pseudo-labels",
      command: cluster,
      flags: flagsOf({ ...common, teacher: at("teacher"), limit, clusters, out: labels }),
    },
    trained(
      { name: "advcl", about: "AdvCL: contrastive views, attacks, high frequencies, clusters", command: pretrain },
      { ...pretraining, epochs, lr: 0.03, attackSteps, clusters, pseudoLabels: labels },
    ),
    ...schemes.map(({ name, about }) =>
      trained(
        { name, about, command: finetune },
        {
          ...{ scheme: name, from: at("advcl"), ...finetuning, milestones },
          ...(name !== "slf" && { attackSteps }),
        },
        "--evaluate",
      ),
    ),
    trained(
      { name: "standard", about: "ordinary training from the start, the baseline", command: finetune },
      { scheme: "standard", ...finetuning, width, size, milestones },
      "--evaluate",
    ),
    ...["standard", "aff"].map((model) => ({
      name: `attacks-${model}`,
      about: `more attacks on ${model === "aff" ? "the robust classifier" : "the standard classifier"}`,
      command: evaluate,
      flags: [
        ...flagsOf({
          ...common,
          target,
          model: at(model),
          attacks,
          limit: Math.min(100, testLimit),
          out: at(`attacks-${model}`),
        }),
        ...resumeFlag(at(`attacks-${model}`)),
      ],
    })),
    ...(["fp32", "int8"] as const).map((precision) => ({
      name: `export-${precision}`,
      about: `the robust classifier as plain ONNX, ${precision}`,
      command: exportCommand,
      flags: flagsOf({
        from: at("aff"),
        ...{ seed, threads, provider, precision, limit: testLimit },
        out: at(`classifier-${precision}.onnx`),
      }),
    })),
  ];
};

export const demo = defineCommand({
  name: "demo",
  summary: "the whole story on built-in images in a few minutes, with a report",
  description:
    "Every part of the method on generated images, each by the command that does it, so that its settings can be read and tried: a teacher is trained and clustered, AdvCL pretrains on the clusters, its encoder is finetuned by SLF, ALF and AFF beside a classifier of standard training, the classifiers are attacked, and the robust one is exported. Each part has a folder in --out; stopped, the same command goes on. Ends with a table and report.html.",
  settings: rows,
  run: async (settings, context) => {
    const { out } = settings;
    const pipeline = new Pipeline(out, context);
    await pipeline.claim("demo.json", "demonstration");
    const parts = partsOf(settings);
    const done: Story["parts"][number][] = [];
    const classifiers: Classifier[] = [];
    const tell = () =>
      writeFileAtomic(join(out, storyFile), `${JSON.stringify({ classifiers, parts: done }, null, 2)}\n`);
    try {
      for (const [i, { name, about, command, flags }] of parts.entries()) {
        context.log(`[${i + 1}/${parts.length}] ${about}`);
        const { seconds, accuracy, robustAccuracy } = await pipeline.once(name, command, flags);
        done.push({ name, about, command: `advcl ${command.name} ${flags.join(" ")}`, seconds: Number(seconds) });
        if (robustAccuracy !== undefined)
          classifiers.push({ name, about, accuracy: Number(accuracy), robustAccuracy: Number(robustAccuracy) });
        await tell();
      }
      await writeReport(out);
    } catch (error) {
      if (!(error instanceof Stopped)) throw error;
      context.log(`stopped; the same command goes on from what ${out} holds`);
      return;
    }
    const { head, rows: lines } = classifierTable(classifiers);
    context.print(markdownTable(head, lines));
    const minutes = done.reduce((sum, { seconds }) => sum + seconds, 0) / 60;
    context.print(`\n${join(out, "report.html")}: all of it, ${minutes.toFixed(1)} minutes of work`);
    const robust = join(out, "aff");
    context.print(
      [
        "next:",
        `  npx advcl serve --from ${robust}   # attack and teach it in the browser`,
        `  npx advcl evaluate --model ${robust} --attacks autoattack --dataset shapes --limit 50`,
        "  npx advcl pretrain --dataset folder --data DIR --out RUN   # on your own images; --help has all settings",
      ].join("\n"),
    );
    context.result({ out, classifiers, parts: done });
  },
});
