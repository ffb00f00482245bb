/** A run in bfloat16 as users start it: what it keeps, that it resumes with the same bytes, and what is said where oneDNN is gone. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "@jest/globals";
import { missingBfloat16 } from "../../../src/engine/native/onednn/available.ts";
import { built } from "../../built.ts";
import { killedAfter } from "../../killed.ts";
import { available } from "../../needs.ts";
import { faultsIn } from "../../warnings.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-bfloat16-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const here = available("onednn", missingBfloat16(1) === undefined) ? describe : describe.skip;

const pretrain = [
  ..."pretrain --dataset shapes --limit 64 --batch 16 --threads 1 --workers 0 --provider cpu --size 16 --width 2".split(
    " ",
  ),
  ..."--epochs 3 --attack-steps 1 --no-clusters --knn-every 0 --radius 3 --precision bfloat16 --json".split(" "),
];
const advcl = (args: readonly string[], env: NodeJS.ProcessEnv = {}) =>
  spawnSync("node", [built("src/cli/main.js"), ...args], { encoding: "utf8", env: { ...process.env, ...env } });
const lastTensors = (run: string): string => {
  const last = readdirSync(join(run, "checkpoints")).sort().at(-1) as string;
  return readFileSync(join(run, "checkpoints", last, "tensors.safetensors"), "latin1");
};

here("--precision bfloat16", () => {
  const [whole, killed] = [join(folder, "whole"), join(folder, "killed")];

  test("is a setting of the run, which resumes with the same bytes", async () => {
    const { status, stderr } = advcl([...pretrain, "--out", whole]);
    expect([status, faultsIn(stderr)]).toEqual([0, []]);
    expect(readFileSync(join(whole, "config.yaml"), "utf8")).toMatch(/^ {2}precision: bfloat16$/m);
    await killedAfter([...pretrain, "--out", killed], killed, 2, "SIGKILL");
    const resumed = advcl([...pretrain, "--out", killed, "--resume"]);
    expect([resumed.status, faultsIn(resumed.stderr)]).toEqual([0, []]);
    expect(lastTensors(killed)).toBe(lastTensors(whole));
  });

  test("gives the same bytes with several steps in a run of the engine, where filters change on the way", () => {
    const many = join(folder, "many");
    const { status, stderr } = advcl([...pretrain, "--steps-per-run", "2", "--out", many]);
    expect([status, faultsIn(stderr)]).toEqual([0, []]);
    expect(lastTensors(many)).toBe(lastTensors(whole));
  });

  test("ends with a program whose last act it was, while its threads are still awake", () => {
    const file = (name: string) => JSON.stringify(built(`src/engine/native/onednn/${name}.js`));
    const program = `
      import { openOnednn } from ${file("library")};
      import { Maker } from ${file("maker")};
      const maker = new Maker(openOnednn(2));
      const [from, to] = [0, 1].map(() => maker.constant(new Float32Array(2 ** 20)));
      const tensor = maker.tensor({ dims: [1024, 1024], strides: [1024, 1], type: "float32" });
      const copy = maker.copy(tensor, tensor);
      for (let i = 0; i < 300; i++) copy(from, to);`;
    // Threads of its own that wait awake for long: what this process asked for holds for its children too.
    const env = { ...process.env, OMP_NUM_THREADS: "2", GOMP_SPINCOUNT: "100000000" };
    const run = () => spawnSync("node", ["--input-type=module", "-e", program], { encoding: "utf8", env });
    for (const { status, signal, stderr } of [run(), run(), run()])
      expect([status, signal, stderr]).toEqual([0, null, ""]);
  });

  test("is refused in one sentence where oneDNN is not here, and leaves nothing", () => {
    const nowhere = join(folder, "nowhere");
    const { status, stderr } = advcl([...pretrain, "--out", nowhere], { ADVCL_ONEDNN: nowhere });
    expect(status).not.toBe(0);
    expect(stderr).toContain(
      "--precision bfloat16 cannot be computed here: oneDNN 3 is not here: run  sh scripts/install-onednn.sh  or set ADVCL_ONEDNN",
    );
    expect(readdirSync(folder)).not.toContain("nowhere");
  });
});
