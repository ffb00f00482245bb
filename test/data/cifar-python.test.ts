import { copyFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { create } from "tar";
import { loadDataset } from "../../src/data/dataset.ts";

/** As Python 2 wrote the published files: `scripts/fixtures/cifar_python.py`. */
const fixtures = fileURLToPath(new URL("../fixtures/cifar", import.meta.url));
let root = "";
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "advcl-cifar-"));
});
afterAll(async () => {
  await rm(root, { recursive: true });
});

/** The same images in the binary version. */
const binary = async (): Promise<string> => {
  const folder = join(root, "binary");
  await mkdir(folder, { recursive: true });
  for (let f = 1; f <= 5; f++)
    await writeFile(
      join(folder, `data_batch_${f}.bin`),
      Buffer.concat(
        [0, 1, 2].map((j) =>
          Buffer.from([f + j, ...Array.from({ length: 3072 }, (_, i) => (7 * (10 * f + j) + i) % 256)]),
        ),
      ),
    );
  return folder;
};

test("the Python version of CIFAR-10 is the binary one, from its folder, the folder's parent or its archive", async () => {
  const expected = await loadDataset({ name: "cifar10", data: await binary(), split: "train" });
  expect([expected.count, expected.index[4], expected.labels![4]]).toEqual([15, 10_001, 3]);
  const archive = join(root, "cifar-10-python.tar.gz");
  await create({ gzip: true, file: archive, cwd: fixtures }, ["cifar-10-batches-py"]);
  const renamed = join(root, "downloaded");
  await copyFile(archive, renamed);
  for (const data of [join(fixtures, "cifar-10-batches-py"), fixtures, archive, root, renamed])
    expect(await loadDataset({ name: "cifar10", data, split: "train" })).toEqual(expected);
  const few = { name: "cifar10", split: "train", limit: 4, size: 8 } as const;
  expect(await loadDataset({ ...few, data: fixtures })).toEqual(await loadDataset({ ...few, data: await binary() }));
});

test("that of CIFAR-100 has both kinds of labels", async () => {
  const dataset = await loadDataset({ name: "cifar100", data: fixtures, split: "test" });
  expect([[...dataset.labels!], [...dataset.coarseLabels!]]).toEqual([
    [19, 99, 0],
    [11, 19, 4],
  ]);
  expect(dataset.images[3072]).toBe((7 * 91) % 256);
  await expect(loadDataset({ name: "cifar100", data: fixtures, split: "train" })).rejects.toThrow(/train\.bin/);
});

test("a damaged one is refused in one sentence that names the file", async () => {
  const folder = join(root, "damaged");
  await cp(join(fixtures, "cifar-10-batches-py"), folder, { recursive: true });
  const path = join(folder, "data_batch_2");
  const bytes = await readFile(path);
  const refused = async (content: Uint8Array) => {
    await writeFile(path, content);
    return expect(loadDataset({ name: "cifar10", data: folder, split: "train" })).rejects;
  };
  await (await refused(bytes.subarray(0, 5000))).toThrow(
    `data: ${path} is not a file of the dataset's Python version: 9216 bytes are announced`,
  );
  const label = bytes.lastIndexOf(Buffer.from("K\x02K\x03K\x04"));
  const wrong = Buffer.from(bytes);
  wrong[label + 1] = 10;
  await (await refused(wrong)).toThrow(`data: ${path} has label 10 in record 0, but labels are 0 to 9`);
  const other = Buffer.from(bytes);
  other[other.indexOf("labels")] = 0x4c;
  await (await refused(other)).toThrow("it has no 3 labels");
  await (await refused(Buffer.from("\x80\x02cposix\nsystem\nU\x02ls\x85R.", "latin1"))).toThrow(
    "it holds a posix.system, and only numpy arrays are read",
  );
});
