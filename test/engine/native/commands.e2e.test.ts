/** Commands as users run them, by each engine: what they leave and answer is the same, byte for byte. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "@jest/globals";
import { built } from "../../built.ts";
import { killedAfter } from "../../killed.ts";
import { faultsIn } from "../../warnings.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-native-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const main = built("src/cli/main.js");
const data = "--dataset shapes --limit 64 --batch 16 --threads 1 --workers 0 --provider cpu --json";
const commands = (at: string) => ({
  pretrain: `pretrain ${data} --size 16 --width 2 --epochs 3 --attack-steps 2 --no-clusters --knn-every 2 --radius 3`,
  together: `pretrain ${data} --size 16 --width 2 --epochs 2 --attack-steps 1 --no-clusters --knn-every 0 --radius 3 --steps-per-run 3`,
  finetune: `finetune ${data} --scheme aff --epochs 2 --attack-steps 1 --from ${join(at, "pretrain")}`,
});

/** Everything in the last checkpoint, and the metrics. */
const left = (run: string): Record<string, string> => {
  const last = join(run, "checkpoints", readdirSync(join(run, "checkpoints")).sort().at(-1) as string);
  return {
    tensors: readFileSync(join(last, "tensors.safetensors"), "latin1"),
    metrics: readFileSync(join(run, "metrics.jsonl"), "utf8").replace(/"(seconds|time|imagesPerSecond)":[^,}]*/g, ""),
  };
};

const advcl = (args: string): Record<string, unknown> => {
  const { status, stdout, stderr } = spawnSync("node", [main, ...args.split(" ")], { encoding: "utf8" });
  expect([status, faultsIn(stderr)]).toEqual([0, []]);
  return JSON.parse(stdout.trim().split("\n").at(-1) as string);
};

const at = (engine: string): string => join(folder, engine);

test.each(["pretrain", "together", "finetune"] as const)("%s", (command) => {
  for (const engine of ["binding", "native"])
    advcl(`${commands(at(engine))[command]} --engine ${engine} --out ${join(at(engine), command)}`);
  expect(left(join(at("native"), command))).toEqual(left(join(at("binding"), command)));
});

test("evaluate, with attacks in several lanes", () => {
  const answers = ["binding", "native"].map((engine) =>
    advcl(
      `evaluate ${data.replace("--threads 1", "--threads 2").replace(" --workers 0", "")} --model ${join(at(engine), "finetune")} --attacks clean,pgd20,apgd-ce --engine ${engine}`,
    ),
  );
  const figures = answers.map((answer) => JSON.stringify(answer, (key, value) => (/seconds/i.test(key) ? 0 : value)));
  expect(figures[1]).toBe(figures[0]?.replaceAll(at("binding"), at("native")));
});

test("a run that is killed and resumed ends with the same bytes", async () => {
  const run = join(folder, "killed");
  const args = `${commands(folder).pretrain} --engine native --out ${run}`.split(" ");
  await killedAfter(args, run, 2, "SIGKILL");
  advcl([...args, "--resume"].join(" "));
  expect(left(run)).toEqual(left(join(at("binding"), "pretrain")));
});
