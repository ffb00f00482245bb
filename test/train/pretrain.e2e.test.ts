/** `advcl pretrain` and `advcl step` as users run them: the built command in processes of its own. */
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "@jest/globals";
import sharp from "sharp";
import { float32, tensor } from "../../graphs/onnx/tensor.ts";
import { writePseudoLabels } from "../../src/data/pseudo-labels.ts";
import { readSafetensors, writeSafetensors } from "../../src/files/safetensors.ts";
import { portraitSchema } from "../../src/report/portrait-file.ts";
import { encodeConfig, type RunConfig, readRunConfig } from "../../src/runs/config.ts";
import { built } from "../built.ts";
import { killedAfter } from "../killed.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-pretrain-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const main = built("src/cli/main.js");
const tiny =
  "pretrain --dataset shapes --limit 64 --size 16 --width 2 --batch 32 --attack-steps 1 --lr 0.05 --knn-every 0 --workers 0 --radius 3 --target portable --threads 1";
const advcl = (args: string) => spawnSync("node", [main, ...args.split(" ")], { encoding: "utf8" });

/** Files of a finished run that must not depend on how often it was stopped. */
const artefacts = (run: string): Record<string, string | undefined> => {
  const checkpoints = join(run, "checkpoints");
  const last = readdirSync(checkpoints).sort().at(-1) as string;
  return {
    last,
    tensors: readFileSync(join(checkpoints, last, "tensors.safetensors"), "latin1"),
    metrics: readFileSync(join(run, "metrics.jsonl"), "utf8"),
    portrait: existsSync(join(run, "portrait.json")) ? readFileSync(join(run, "portrait.json"), "utf8") : undefined,
  };
};

/** The portrait of a run on shapes with clusters, and that its report shows it. */
const checkPortrait = async (run: string): Promise<void> => {
  const { gallery, map } = portraitSchema.parse(JSON.parse(readFileSync(join(run, "portrait.json"), "utf8")));
  const titles = gallery.columns.map(({ title }) => title);
  expect(titles).toEqual([
    ...["clean", "clean, cropped", "view1", "view2", "high frequencies", "adversarial", "perturbation"],
  ]);
  expect(gallery.rows.length).toBe(6);
  for (const { pictures } of gallery.rows) {
    const bytesOf = (title: string) =>
      sharp(Buffer.from(pictures[titles.indexOf(title)]!, "base64"))
        .removeAlpha()
        .raw()
        .toBuffer();
    const [clean, adversarial] = [await bytesOf("clean"), await bytesOf("adversarial")];
    expect(clean.length).toBe(3 * 16 * 16);
    const moves = [...clean].map((byte, i) => Math.abs(byte - adversarial[i]!));
    // The radius is 8/255, and the attack goes to its border.
    expect(Math.max(...moves)).toBe(8);
    expect(await bytesOf("view1")).not.toEqual(await bytesOf("view2"));
  }
  expect(map.points.length).toBe(64);
  expect(map.groups.map(({ source, names, of }) => [source, names.length, of.length])).toEqual([
    ["by class", 10, 64],
    ["by cluster of the pseudo-labels, K = 3", 3, 64],
  ]);
  const report = readFileSync(join(run, "report.html"), "utf8");
  expect(report).toContain(gallery.rows[0]!.pictures[0]);
  expect((report.match(/<circle/g) ?? []).length).toBeGreaterThanOrEqual(2 * 64);
};

describe("a run", () => {
  const labels = join(folder, "labels.safetensors");
  const args = `${tiny} --epochs 8 --clusters 2,3 --pseudo-labels ${labels}`;

  test("trains with clusters; killed and resumed it ends with the same bytes", async () => {
    // `shapes` has 2,000 training images officially; the limit takes the first of them.
    const numbers = Int32Array.from({ length: 2000 }, (_, i) => i);
    await writePseudoLabels(labels, { ks: [2, 3], labels: (k) => numbers.map((n) => n % k) });
    const straight = advcl(`${args} --out ${join(folder, "straight")} --json`);
    expect(straight.stderr).not.toMatch(/error/i);
    expect(straight.status).toBe(0);
    const result = JSON.parse(straight.stdout.trim().split("\n").at(-1) as string);
    expect(result.steps).toBe(16);
    expect(Object.keys(result.metrics)).toEqual(expect.arrayContaining(["loss", "contrastive", "clustering"]));

    await checkPortrait(join(folder, "straight"));

    const stopped = join(folder, "stopped");
    const resumable = `${args} --out ${stopped}`;
    await killedAfter(resumable.split(" "), stopped, 3, "SIGKILL");
    expect(await killedAfter(`${resumable} --resume`.split(" "), stopped, 5, "SIGTERM")).not.toBe(0);
    expect(advcl(`${resumable} --resume`).status).toBe(0);
    expect(artefacts(stopped)).toEqual(artefacts(join(folder, "straight")));
  });

  test("its folder is not taken by another run, and settings may not change on resume", () => {
    const again = advcl(`${args} --out ${join(folder, "straight")}`);
    expect([again.status, again.stderr]).toEqual([2, expect.stringContaining("holds a run of pretrain already")]);
    const other = advcl(`${args} --out ${join(folder, "straight")} --resume --lr 0.3`);
    expect([other.status, other.stderr]).toEqual([2, expect.stringContaining("lr was 0.05 and is now 0.3")]);
  });
});

test("a run that goes on is lowered as it was begun", async () => {
  const args = `${tiny.replace(" --target portable", "")} --epochs 2 --no-clusters`;
  const [begun, asked] = [join(folder, "begun"), join(folder, "asked")];
  expect(advcl(`${args} --out ${begun}`).status).toBe(0);
  const config = (await readRunConfig(begun)) as RunConfig;
  expect(config.target).toMatch(/^cpu/);
  expect(advcl(`${args} --target cpu-pixels --out ${asked}`).status).toBe(0);
  expect((await readRunConfig(asked))?.target).toBeUndefined();
  // As if it had been begun where pixels are the choice, and stopped before its first checkpoint.
  rmSync(join(begun, "checkpoints"), { recursive: true });
  writeFileSync(join(begun, "config.yaml"), encodeConfig({ ...config, target: "cpu-pixels" }));
  expect(advcl(`${args} --out ${begun} --resume`).status).toBe(0);
  expect(artefacts(begun).tensors).toBe(artefacts(asked).tensors);
});

test("several steps in a run of the engine end with the same bytes, killed and resumed or not", async () => {
  // Three steps an epoch: a run of two, and one that is left over.
  const args = `${tiny.replace("--limit 64", "--limit 96")} --no-clusters --epochs 6`;
  expect(advcl(`${args} --out ${join(folder, "one")}`).status).toBe(0);
  const many = `${args} --steps-per-run 2 --out ${join(folder, "many")}`;
  await killedAfter(many.split(" "), join(folder, "many"), 3, "SIGKILL");
  expect(await killedAfter(`${many} --resume`.split(" "), join(folder, "many"), 6, "SIGTERM")).not.toBe(0);
  // Nothing can be written over a folder: the run is whole all the same, and says what it lacks.
  mkdirSync(join(folder, "many", "portrait.json"));
  const resumed = advcl(`${many} --resume`);
  expect([resumed.status, resumed.stderr]).toEqual([
    0,
    expect.stringMatching(/warning: the report of .* has no pictures/),
  ]);
  expect(existsSync(join(folder, "many", "report.html"))).toBe(true);
  const { portrait: _, ...one } = artefacts(join(folder, "one"));
  expect(artefacts(join(folder, "many"))).toEqual({ ...one, portrait: undefined });
});

test.each([1, 2])(
  "a loss that is not finite stops the run and keeps what led to it, %i steps in a run",
  async (many) => {
    const run = join(folder, `diverged-${many}`);
    const args = `${tiny} --no-clusters --epochs 3 --steps-per-run ${many} --out ${run}`;
    const { status, stderr } = advcl(args.replace("--lr 0.05", "--lr 1e30"));
    expect(status).toBe(1);
    expect(stderr).toMatch(/is NaN at step \d+.*the last checkpoint is kept/);
    const { tensors: weights } = await readSafetensors(join(run, "diverged", "weights.safetensors"));
    const { tensors: batch } = await readSafetensors(join(run, "diverged", "batch.safetensors"));
    expect(weights.has("conv1.weight")).toBe(true);
    expect([...batch.keys()]).toEqual(expect.arrayContaining(["clean", "view1", "view2", "start_cl"]));
    if (many === 2) return;
    // What its message advises works.
    const lower = advcl(`${args} --resume`);
    expect(lower.stderr).toContain("lr was 1e+30 and is now 0.05; config.yaml tells of it");
    expect(lower.status).toBe(0);
  },
);

test("a run goes on from another working folder, and where its images were moved, if they are the same", async () => {
  const images = join(folder, "images");
  for (const name of ["a", "b"]) mkdirSync(join(images, "train", name), { recursive: true });
  for (let i = 0; i < 32; i++) {
    const background = { r: 8 * i, g: 255 - 8 * i, b: 99 };
    const image = sharp({ create: { width: 16, height: 16, channels: 3, background } }).png();
    await image.toFile(join(images, "train", "ab"[i % 2]!, `${i}.png`));
  }
  const out = join(folder, "moving");
  const args = `${tiny} --no-clusters --epochs 1`.replace("shapes --limit 64", "folder").replace("every 0", "every 1");
  const at = (cwd: string, words: string) => spawnSync("node", [main, ...words.split(" ")], { encoding: "utf8", cwd });
  const began = at(folder, `${args} --data images --out moving`);
  expect([began.status, began.stderr]).toEqual([
    0,
    expect.stringMatching(/kNN accuracy is not measured: .*no folder test/),
  ]);
  const elsewhere = at(tmpdir(), `pretrain --out ${out} --resume`);
  expect([elsewhere.status, elsewhere.stderr]).toEqual([0, expect.not.stringContaining("data was")]);
  renameSync(images, join(folder, "moved"));
  const moved = at(folder, "pretrain --out moving --resume --data moved --threads 2");
  expect([moved.status, moved.stderr]).toEqual([
    0,
    expect.stringMatching(/threads was 1 and is now 2.*data was images/),
  ]);
  copyFileSync(join(folder, "moved", "train", "a", "0.png"), join(folder, "moved", "train", "a", "2.png"));
  const others = at(folder, "pretrain --out moving --resume");
  expect([others.status, others.stderr]).toEqual([2, expect.stringContaining("not those that the run began with")]);
});

describe("a wrong request gets one sentence and exit code 2, and leaves nothing", () => {
  const cases: readonly (readonly [name: string, args: string, message: RegExp])[] = [
    ["no data", "pretrain --dataset cifar10 --no-clusters --data /nowhere", /\/nowhere/],
    ["clusters without labels", tiny, /clusters 2, 10, 50, 100, 500 need --pseudo-labels FILE/],
    ["labels that are not there", `${tiny} --pseudo-labels /nowhere.pkl`, /\/nowhere\.pkl/],
    ["a batch larger than the data", `${tiny} --no-clusters --batch 128`, /64 images, fewer than a batch of 128/],
    ["an unknown setting", `${tiny} --atack-steps 3`, /no setting --atack-steps; did you mean --attack-steps\?/],
    ["a provider that is not there", `${tiny} --no-clusters --provider cuda`, /provider cuda is not available/],
    [
      "a target of another provider",
      `${tiny} --no-clusters --provider cpu --target cuda-float16`,
      /--target cuda-float16 is computed rightly by --provider cuda alone/,
    ],
    ["an impossible value", `${tiny} --no-clusters --eps 2`, /eps/],
  ];
  test.each(cases)("%s", (_, args, message) => {
    const out = join(folder, "refused");
    const { status, stderr } = advcl(`${args} --out ${out}`);
    expect(stderr).toMatch(message);
    expect(
      stderr
        .trim()
        .split("\n")
        .filter((line) => line.startsWith("error")).length,
    ).toBe(1);
    expect(status).toBe(2);
    expect(existsSync(out)).toBe(false);
  });

  test("labels that do not fit K", async () => {
    const labels = join(folder, "wrong.safetensors");
    await writeSafetensors(labels, { pseudo_train_2: tensor("int32", [2000], new Int32Array(2000).fill(5)) });
    const { status, stderr } = advcl(`${tiny} --clusters 2 --pseudo-labels ${labels} --out ${join(folder, "refused")}`);
    expect(stderr).toMatch(/label 5 for image 0 under K = 2/);
    expect(status).toBe(2);
  });

  test("a truncated data file", () => {
    const data = mkdtempSync(join(folder, "cifar-"));
    for (const name of ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"])
      writeFileSync(join(data, `${name}.bin`), Buffer.alloc(3073 * 2 + 100));
    const { status, stderr } = advcl(
      `pretrain --dataset cifar10 --no-clusters --data ${data} --out ${join(folder, "refused")}`,
    );
    expect(stderr).toMatch(/data_batch_1\.bin/);
    expect(status).toBe(2);
    expect(existsSync(join(folder, "refused"))).toBe(false);
  });

  test("weights that do not fit: what they hold besides, and the first that is wrong or lacks, are listed", async () => {
    const weights = join(folder, "weights.safetensors");
    const batch = join(folder, "batch.safetensors");
    const image = float32([2, 3, 16, 16], new Float32Array(2 * 3 * 256));
    await writeSafetensors(weights, { "conv1.weight": float32([1], [0]), "stray.weight": float32([1], [0]) });
    await writeSafetensors(batch, { clean: image, view1: image, view2: image, start_cl: image });
    const { status, stderr } = advcl(
      `step --weights ${weights} --batch ${batch} --width 2 --out ${join(folder, "r.safetensors")}`,
    );
    expect(status).toBe(2);
    expect(stderr).toMatch(/conv1\.weight is float32\[1\] and should be float32\[2,3,3,3\]/);
    expect(stderr).toMatch(/lacks bn1\.bn_list\.0\.weight/);
    expect(stderr).toMatch(/stray\.weight is not of this network/);
    expect(stderr).toMatch(/; and 1\d\d more; give the weights of this network/);
  });
});
