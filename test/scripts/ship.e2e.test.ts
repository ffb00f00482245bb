/** What ships is made by a script: files that stand for the run, and a card whose figures were measured. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, jest, test } from "@jest/globals";
import { parseModel } from "../../graphs/onnx/parse.ts";
import { evaluate } from "../../src/evaluate/evaluate.ts";
import { loadRun } from "../../src/runs/network.ts";
import { finetune } from "../../src/train/finetune.ts";
import { pretrain } from "../../src/train/pretrain.ts";
import { built } from "../built.ts";

jest.setTimeout(300_000);

const folder = mkdtempSync(join(tmpdir(), "advcl-ship-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

test("an encoder comes as safetensors, as ONNX and with a card", async () => {
  const common = { dataset: "shapes" as const, limit: 32, threads: 1, workers: 0, batch: 16, epochs: 1 };
  await pretrain({ ...common, method: "simclr", size: 16, width: 2, knnEvery: 0, out: at("run") });
  await finetune({ ...common, scheme: "slf", testLimit: 20, from: at("run"), out: at("head") });
  const ship = (...more: string[]) =>
    spawnSync(
      "node",
      [
        built("scripts/encoders/ship.js"),
        ...`--name small --run ${at("run")} --dataset shapes --limit 40 --licence MIT --out ${at("ships")}`.split(" "),
        ...more,
      ],
      { encoding: "utf8" },
    );
  const bare = ship();
  expect([bare.status, bare.stderr]).toEqual([2, expect.stringMatching(/^error: --judge is missing/)]);
  const made = ship("--judge", `its head=${at("head")}`, "--images", "generated shapes");
  expect([made.status, made.stderr]).toEqual([0, expect.not.stringMatching(/error/i)]);

  const card = readFileSync(at("ships/small.md"), "utf8");
  const asked = { dataset: "shapes" as const, limit: 40, attacks: ["clean", "pgd20"], model: at("head") };
  const { attacks } = await evaluate(asked);
  const [clean, robust] = ["clean", "pgd20"].map((name) => (100 * attacks[name]!.accuracy).toFixed(1));
  expect(card).toMatch(new RegExp(`\\| its head +\\| ${clean} \\(.*\\| ${robust} \\(.*\\| 40 `));
  expect(card).toContain("simclr, on generated shapes");
  // What was asked beyond the defaults, by which the run can be made again, and no place of this machine.
  expect(card).toMatch(/npx advcl pretrain .*--method simclr .*--width 2 .*--size 16 .*--epochs 1/);
  expect(card).not.toContain("--temperature");
  expect(card).not.toContain(folder);
  const [own, shipped] = [await loadRun(at("run"), () => {}), await loadRun(at("ships/small.safetensors"), () => {})];
  expect(shipped.tensors.get("conv1.weight")).toEqual(own.tensors.get("conv1.weight"));
  expect(parseModel(readFileSync(at("ships/small.onnx"))).metadata).toMatchObject({
    what: "encoder",
    method: "simclr",
  });

  // An encoder that was trained in two stages tells of both.
  const stage = { ...common, method: "simclr", size: 24, knnEvery: 0 };
  await pretrain({ ...stage, from: at("run"), out: at("second") });
  const unnamed = ship("--run", at("second"), "--judge", `its head=${at("head")}`);
  expect([unnamed.status, unnamed.stderr]).toEqual([
    2,
    expect.stringMatching(/came from .*run; name that with --before/),
  ]);
  const staged = ship("--run", at("second"), "--before", at("run"), "--judge", `its head=${at("head")}`);
  expect([staged.status, staged.stderr]).toEqual([0, expect.not.stringMatching(/error/i)]);
  const told = readFileSync(at("ships/small.md"), "utf8");
  expect(told).toMatch(
    /npx advcl pretrain .*--size 16 .*--out runs\/1\nnpx advcl pretrain .*--size 24 .*--from runs\/1 --out runs\/2\n/,
  );
  expect(told).toContain(
    "2 steps of 16 images of 16×16, 1 epochs; then pretrain simclr: 2 steps of 16 images of 24×24",
  );
});
