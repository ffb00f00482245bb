/** The smoke training, by the Action that projects of others take it from. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "@jest/globals";
import { parse } from "yaml";
import { readSafetensors, writeSafetensors } from "../../src/files/safetensors.ts";
import { goldenFile, runGoldenStep } from "../../src/smoke/golden-step.ts";
import { packageRoot } from "../../src/version.ts";
import { built } from "../built.ts";

const folder = mkdtempSync(join(tmpdir(), "smoke-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface Action {
  readonly inputs: Readonly<Record<string, { readonly default: string }>>;
  readonly runs: {
    readonly steps: readonly { readonly run?: string; readonly env?: Readonly<Record<string, string>> }[];
  };
}
const action = parse(readFileSync(join(packageRoot, "action.yml"), "utf8")) as Action;

/** Runs the Action's last step as GitHub would, with inputs. */
const act = (name: string, inputs: Readonly<Record<string, string>>) => {
  built("scripts/ci/action.js");
  const step = action.runs.steps.at(-1)!;
  const fill = (text: string) =>
    text.replace(/\$\{\{ inputs\.([\w-]+) \}\}/g, (_, key: string) => inputs[key] ?? action.inputs[key]?.default ?? "");
  const [output, summary] = [join(folder, `${name}-output`), join(folder, `${name}-summary`)];
  const { status, stderr } = spawnSync("bash", ["-e", "-c", step.run!], {
    cwd: folder,
    encoding: "utf8",
    env: {
      ...process.env,
      ...Object.fromEntries(Object.entries(step.env!).map(([key, text]) => [key, fill(text)])),
      ...{ GITHUB_ACTION_PATH: packageRoot, GITHUB_OUTPUT: output, GITHUB_STEP_SUMMARY: summary },
    },
  });
  return { status, stderr, output: readFileSync(output, "utf8"), summary: readFileSync(summary, "utf8") };
};

const reduced =
  "--limit 64\n--test-limit 32\n--epochs 1\n--finetune-epochs 1\n--width 2\n--batch 16\n--attack-steps 1\n--threads 2\n--workers 0";

describe("the Action", () => {
  test("trains, and says how it went", () => {
    const args = `${reduced}\n--require loss>0\n--require exportedAccuracy>=0.5*accuracy\n--out smoke`;
    const { status, output, summary } = act("well", { args });
    expect(summary).toContain("### advcl smoke: all is well");
    expect(summary).toMatch(/\| ✓ \| require \| `exportedAccuracy>=0.5\*accuracy` \|/);
    expect(status).toBe(0);
    const [, json = ""] = /^result=(.*)$/m.exec(output) ?? [];
    const { figures, golden, verdicts } = JSON.parse(json);
    expect(Object.keys(figures)).toEqual(expect.arrayContaining(["loss", "knnAccuracy", "robustAccuracy"]));
    expect([golden.wrong, verdicts.length]).toEqual([[], 2]);
    expect(output).toMatch(/^exit-code=0$/m);
    expect(JSON.parse(readFileSync(join(folder, "smoke/smoke.json"), "utf8")).figures).toEqual(figures);
  });

  test("fails where a threshold is missed: with 1 of smoke, with 3 of other commands", () => {
    const smoke = act("missed", { args: `${reduced}\n--no-golden\n--require accuracy>1` });
    expect([smoke.status, smoke.output]).toEqual([1, "result=\nexit-code=1\n"]);
    expect(smoke.summary).toMatch(/error: the smoke training failed: accuracy>1 does not hold \(0\.\d+ against 1\)/);
    const args =
      "--preset quick\n--limit 32\n--size 16\n--radius 4\n--width 2\n--epochs 1\n--fail-if knnAccuracy>=0\n--out run";
    const pretrain = act("pretrain", { command: "pretrain", args });
    expect([pretrain.status, pretrain.summary]).toEqual([3, expect.stringContaining("✗ | fail-if | `knnAccuracy>=0`")]);
    expect(pretrain.stderr).toContain('failed: --fail-if "knnAccuracy>=0" holds: ');
    expect(pretrain.output).toMatch(/^result=\{.*"first":\{.*"best":\{.*\}$/m);
  });
});

test("a golden step that differs is found out", async () => {
  const { tensors, metadata } = await readSafetensors(goldenFile);
  const file = join(folder, "other.safetensors");
  const loss = Float32Array.from(tensors.get("metric.loss")!.data as Float32Array, (v) => 1.01 * v);
  const turned = Float32Array.from(tensors.get("grad.conv1.weight")!.data as Float32Array, (v) => -v);
  await writeSafetensors(
    file,
    {
      ...Object.fromEntries(tensors),
      "metric.loss": { ...tensors.get("metric.loss")!, data: loss },
      "grad.conv1.weight": { ...tensors.get("grad.conv1.weight")!, data: turned },
    },
    metadata,
  );
  const { wrong } = await runGoldenStep({ provider: "cpu", threads: 2 }, file);
  expect(wrong.map((sentence) => sentence.split(" ")[0])).toEqual([
    "after.conv1.weight",
    ...[...tensors.keys()].filter((name) => ["metric.loss", "grad.conv1.weight"].includes(name)),
  ]);
});
