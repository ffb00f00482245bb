/**
 * Many steps and many evaluations in one process: memory and open files must not grow with their number.
 *
 *   node --expose-gc dist/scripts/reliability/flat.js [--steps 2000] [--evaluations 200]
 *
 * Trains a tiny network on generated images, then evaluates it again and again, and looks at resident memory and
 * descriptors on the way. The last line is one JSON object { steps, evaluations }, each { first, last, files }: megabytes
 * at a quarter of the way and at the end, and how many more files were open then. Exit code 1 where memory grew by
 * more than 32 MB or a file stayed open. Needs Linux for the files.
 */
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { evaluate } from "../../src/evaluate/evaluate.ts";
import { finetune } from "../../src/train/finetune.ts";
import { quietReporter } from "../../src/verbs/reporter.ts";
import { readFlags } from "../flags.ts";

const { values: flags } = readFlags(import.meta.url, {
  options: { steps: { type: "string", default: "2000" }, evaluations: { type: "string", default: "200" } },
});

interface Look {
  readonly megabytes: number;
  readonly files: number;
}

const look = (): Look => {
  globalThis.gc?.();
  const files = existsSync("/proc/self/fd") ? readdirSync("/proc/self/fd").length : 0;
  return { megabytes: process.memoryUsage.rss() / 1e6, files };
};

const grown = (looks: readonly Look[]) => {
  const [first, last] = [looks[Math.floor(looks.length / 4)]!, looks.at(-1)!];
  return {
    first: Math.round(first.megabytes),
    last: Math.round(last.megabytes),
    files: last.files - first.files,
  };
};

const root = mkdtempSync(join(tmpdir(), "advcl-flat-"));
// So tiny a network is no better than chance, which each evaluation would say.
const reporter = { ...quietReporter, warn: () => {} };
const common = { dataset: "shapes", threads: 1, target: "portable" } as const;
try {
  const stepsPerEpoch = 8;
  const epochs = Math.ceil(Number(flags.steps) / stepsPerEpoch);
  const looks: Look[] = [];
  const out = join(root, "run");
  await finetune(
    {
      ...{ ...common, scheme: "pgd-at", from: "none", out, epochs, milestones: [], attackSteps: 1, lr: 0.01 },
      ...{ limit: 8 * stepsPerEpoch, batch: 8, testLimit: 16, width: 2, size: 16, workers: 0 },
      saveEvery: Math.max(1, Math.floor(epochs / 20)),
    },
    {
      reporter: {
        ...reporter,
        progress: () => ({
          update: ({ step }) => {
            if (step % Math.max(1, Math.floor((epochs * stepsPerEpoch) / 40)) === 0) looks.push(look());
          },
          stop: () => {},
        }),
      },
    },
  );
  const steps = grown(looks);
  console.error(`${epochs * stepsPerEpoch} steps: ${JSON.stringify(steps)}`);
  const after: Look[] = [];
  for (let i = 0; i < Number(flags.evaluations); i++) {
    await evaluate({ ...common, model: out, limit: 8, batch: 8, attacks: ["clean", "fgsm"] }, { reporter });
    after.push(look());
  }
  const evaluations = grown(after);
  console.log(JSON.stringify({ steps, evaluations }));
  const flat = [steps, evaluations].every(({ first, last, files }) => last - first <= 32 && files <= 0);
  process.exitCode = flat ? 0 : 1;
} finally {
  rmSync(root, { recursive: true, force: true });
}
