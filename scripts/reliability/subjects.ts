/** Readers, and a sound file for each. */
import { createHash } from "node:crypto";
import { cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { unzipSync, zipSync } from "fflate";
import sharp, { type Sharp } from "sharp";
import { create } from "tar";
import { readModel } from "../../graphs/import/read.ts";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import type { DatasetName } from "../../src/data/dataset.ts";
import { loadDataset } from "../../src/data/dataset.ts";
import { readPseudoLabels, writePseudoLabels } from "../../src/data/pseudo-labels.ts";
import { RequestError, RunError } from "../../src/errors.ts";
import { openEvaluationLog } from "../../src/evaluate/evaluation-log.ts";
import { openNpy } from "../../src/files/npy.ts";
import { encodeSafetensors } from "../../src/files/safetensors.ts";
import { readSealed, sealed } from "../../src/files/seal.ts";
import { readWeights } from "../../src/files/weights.ts";
import { latestCheckpoint, writeCheckpoint } from "../../src/runs/checkpoint.ts";
import { configFile, encodeConfig, readRunConfig } from "../../src/runs/config.ts";
import { readMetrics } from "../../src/runs/metrics.ts";
import type { RunFolder } from "../../src/runs/run-folder.ts";
import type { Checksum, Subject } from "./fuzz.ts";

const digest = (...parts: readonly (string | Uint8Array)[]): string => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part).update("\0");
  return hash.digest("hex");
};

const ofTensors = (tensors: ReadonlyMap<string, Tensor>): string =>
  digest(
    ...Array.from(tensors).flatMap(([name, { dtype, shape, data }]) => [
      name,
      `${dtype}[${shape.join()}]`,
      new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    ]),
  );

const ofDataset = async (name: DatasetName, data: string, size?: number): Promise<string> => {
  const { images, labels, index, classes } = await loadDataset({ name, data, split: "train", size, warn: () => {} });
  return digest(images, JSON.stringify([[...(labels ?? [])], [...index], classes]));
};

const ofNpy = async (path: string): Promise<string> => {
  const file = await openNpy(path);
  try {
    return digest(file.shape.join(), await file.rows(0, file.shape[0]!));
  } finally {
    await file.close();
  }
};

const fixture = (name: string): string => {
  // From scripts/reliability, or from its compiled copy under dist.
  const here = fileURLToPath(import.meta.url);
  const root = here.includes("/dist/scripts/") ? "../../../test/fixtures" : "../../test/fixtures";
  return join(dirname(here), root, name);
};

const npyBytes = (): Buffer => {
  const header = "{'descr': '<i4', 'fortran_order': False, 'shape': (8, 2), }\n";
  const start = Buffer.from("\x93NUMPY\x01\0\0\0", "latin1");
  start.writeUInt16LE(header.length, 8);
  return Buffer.concat([
    start,
    Buffer.from(header),
    new Uint8Array(Int32Array.from({ length: 16 }, (_, i) => 9 * i).buffer),
  ]);
};

/** {"pseudo_train_2": numpy.array([0, 1, 1, 0], "int32"), …} by Python, protocol 5. */
const pickledLabels =
  "gAWV0wAAAAAAAAB9lCiMDnBzZXVkb190cmFpbl8ylIwTbnVtcHkuX2NvcmUubnVtZXJpY5SMC19mcm9tYnVmZmVylJOUKJYQAAAAAAAAAAAAAAABAAAAAQAAAAAAAACUjAVudW1weZSMBWR0eXBllJOUjAJpNJSJiIeUUpQoSwOMATyUTk5OSv////9K/////0sAdJRiSwSFlIwBQ5R0lFKUjA5wc2V1ZG9fdGVzdF8xMJRoBCiWEAAAAAAAAAAJAAAAAwAAAAAAAAAFAAAAlGgLSwSFlGgPdJRSlHUu";

const cifarBytes = (file: number): Buffer =>
  Buffer.concat(
    [0, 1].map((j) =>
      Buffer.from([j + file, ...Array.from({ length: 3072 }, (_, i) => (i * (j + 2) + 31 * file) % 251)]),
    ),
  );

const writeCifar = async (folder: string): Promise<void> => {
  await mkdir(folder, { recursive: true });
  for (let b = 1; b <= 5; b++) await writeFile(join(folder, `data_batch_${b}.bin`), cifarBytes(b));
};

const image = (): Sharp =>
  sharp(
    Uint8Array.from({ length: 3 * 24 * 24 }, (_, i) => (i * 37) % 256),
    { raw: { width: 24, height: 24, channels: 3 } },
  );

/** Writes a sound file of a subject into its folder, and returns its name. */
type Lay = (name: string, file: string, bytes: string | Uint8Array) => Promise<string>;

const weightsSubjects = async (lay: Lay): Promise<Subject[]> => {
  const read = async (folder: string): Promise<string> => ofTensors((await readWeights(join(folder, "f"))).tensors);
  const safetensors = encodeSafetensors(
    {
      a: tensor(
        "float32",
        [2, 3],
        Float32Array.from({ length: 6 }, (_, i) => i),
      ),
      b: tensor("int64", [1], BigInt64Array.of(7n)),
    },
    { made: "here" },
  );
  const zip = await readFile(fixture("torch/checkpoint.pt"));
  const files: [string, Checksum, Uint8Array][] = [
    ["safetensors", "none", safetensors],
    ["torch", "whole", zip],
    ["torch-deflated", "whole", zipSync(unzipSync(zip), { level: 9 })],
    ["torch-legacy", "none", await readFile(fixture("torch/legacy.pt"))],
  ];
  return Promise.all(
    files.map(async ([name, checksum, bytes]) => ({ name, checksum, file: await lay(name, "f", bytes), read })),
  );
};

const arraySubjects = async (root: string, lay: Lay): Promise<Subject[]> => {
  const labels = { ks: [2], labels: () => Int32Array.of(0, 1, 1, 0), digests: new Uint8Array(32).map((_, i) => i) };
  await writePseudoLabels(join(root, "pseudo-labels", "f"), labels);
  return [
    {
      name: "pickled-labels",
      checksum: "none",
      file: await lay("pickled-labels", "f.pkl", Buffer.from(pickledLabels, "base64")),
      read: async (folder) => {
        const found = await readPseudoLabels(join(folder, "f.pkl"));
        return digest(found.ks.join(), ...found.ks.map((k) => found.labels(k).join()));
      },
    },
    {
      name: "npy",
      checksum: "none",
      file: await lay("npy", "f", npyBytes()),
      read: (folder) => ofNpy(join(folder, "f")),
    },
    {
      name: "pseudo-labels",
      checksum: "none",
      file: "f",
      read: async (folder) => {
        const found = await readPseudoLabels(join(folder, "f"));
        return digest(found.ks.join(), ...found.ks.map((k) => found.labels(k).join()), found.digests ?? "");
      },
    },
  ];
};

const datasetSubjects = async (root: string): Promise<Subject[]> => {
  const archive = "cifar-10-binary.tar.gz";
  const source = join(root, ".source");
  await writeCifar(join(source, "cifar-10-batches-bin"));
  for (const name of ["tar.gz", "tar"]) {
    await mkdir(join(root, name), { recursive: true });
    await create({ gzip: name === "tar.gz", file: join(root, name, archive), cwd: source }, ["cifar-10-batches-bin"]);
  }
  await writeCifar(join(root, "cifar"));
  await mkdir(join(root, "stl10"), { recursive: true });
  for (const [split, count] of [
    ["train", 2],
    ["test", 1],
    ["unlabeled", 1],
  ] as const) {
    const pixels = Uint8Array.from({ length: count * 3 * 96 * 96 }, (_, i) => (i * 7) % 253);
    await writeFile(join(root, "stl10", `${split}_X.bin`), pixels);
    if (split !== "unlabeled")
      await writeFile(join(root, "stl10", `${split}_y.bin`), Uint8Array.of(3, 10).subarray(0, count));
  }
  await cp(fixture("cifar/cifar-10-batches-py"), join(root, "cifar-python"), { recursive: true });
  const read = (folder: string): Promise<string> => ofDataset("cifar10", folder);
  return [
    { name: "tar.gz", checksum: "whole", file: archive, read },
    { name: "tar", checksum: "headers", file: archive, read },
    { name: "cifar", checksum: "none", file: "data_batch_3.bin", read },
    { name: "stl10", checksum: "none", file: "train_y.bin", read: (folder) => ofDataset("stl10", folder) },
    { name: "cifar-python", checksum: "none", file: "data_batch_3", read },
  ];
};

const imageSubjects = async (lay: Lay): Promise<Subject[]> => {
  const files: [string, Checksum, Sharp][] = [
    ["png", "whole", image().png()],
    ["jpeg", "none", image().jpeg()],
    ["webp", "none", image().webp({ lossless: true })],
    ["tiff", "none", image().tiff({ compression: "lzw" })],
    ["gif", "none", image().gif()],
  ];
  const raw = await image().raw().toBuffer();
  const bmp = Buffer.alloc(54 + raw.length);
  bmp.write("BM");
  for (const [at, value] of [
    [10, 54],
    [14, 40],
    [18, 24],
    [22, 24],
  ] as const)
    bmp.writeUInt32LE(value, at);
  bmp.writeUInt16LE(24, 28);
  bmp.set(raw, 54);
  const bytes: [string, Checksum, Uint8Array][] = [
    ["bmp", "none", bmp],
    ["ppm", "none", Buffer.concat([Buffer.from("P6\n24 24\n255\n"), raw])],
  ];
  for (const [name, checksum, encoded] of files) bytes.push([name, checksum, await encoded.toBuffer()]);
  return Promise.all(
    bytes.map(async ([name, checksum, encoded]) => ({
      name,
      checksum,
      file: await lay(name, `a.${name}`, encoded),
      read: (folder) => ofDataset("folder", folder, 16),
    })),
  );
};

/** A run's own files: its checkpoint, and the log of an evaluation. */
const runSubjects = async (root: string, lay: Lay): Promise<Subject[]> => {
  const tensors = new Map([["param.w", tensor("float32", [4], Float32Array.of(1, 2, 3, 4))]]);
  const place = { epoch: 1, step: 8, state: { classes: ["cat", "dog"] }, tensors };
  for (const name of ["checkpoint", "checkpoint-tensors"])
    await writeCheckpoint(join(root, name), {
      ...place,
      logs: { "metrics.jsonl": 812 },
      stopgap: false,
      settings: { lr: 0.5 },
    });
  const read = async (folder: string): Promise<string> => {
    try {
      const found = await latestCheckpoint(folder, () => {});
      return found === undefined ? "none" : `${ofTensors(found.tensors)} ${JSON.stringify({ ...found, tensors: 0 })}`;
    } catch (error) {
      // Of a checkpoint without one before it the run says that none is whole.
      throw error instanceof RunError ? new RequestError(error.message) : error;
    }
  };
  const records = [0, 1].map((chunk) => ({
    stage: "pgd20",
    chunk,
    images: [{ i: chunk, prediction: 3, broken: true }],
  }));
  const lines = [{ model: "abc" }, ...records].map((record) => `${sealed(record)}\n`);
  return [
    { name: "checkpoint", checksum: "whole", file: "000008/state.json", read },
    { name: "checkpoint-tensors", checksum: "whole", file: "000008/tensors.safetensors", read },
    {
      name: "evaluation-log",
      checksum: "whole",
      file: await lay("evaluation-log", "finished.jsonl", lines.join("")),
      // Lines that are gone are images that are attacked again.
      read: async (folder) => {
        const run = { path: folder, appendTo: () => ({ append: () => {}, sync: () => {} }) } as unknown as RunFolder;
        const { finished } = openEvaluationLog(run, { images: {} as never, digest: "abc", keeps: () => false });
        const known = records.map((record) => JSON.stringify(record));
        return [...finished.values()].every((record) => known.includes(JSON.stringify(record)))
          ? "its lines"
          : "others";
      },
    },
  ];
};

const otherSubjects = async (lay: Lay): Promise<Subject[]> => [
  {
    name: "onnx",
    checksum: "none",
    file: await lay("onnx", "f", await readFile(fixture("teacher/net.onnx"))),
    // Of what is read of a model its weights are compared, not its graph.
    read: async (folder) =>
      ofTensors(new Map(Object.entries(readModel(await readFile(join(folder, "f")), { batch: 2 }).weights))),
  },
  {
    name: "metrics",
    checksum: "none",
    file: await lay("metrics", "f", '{"step":1,"epoch":0,"loss":2.5}\n{"step":2,"epoch":0,"loss":null}\n'),
    read: async (folder) => JSON.stringify(await readMetrics(join(folder, "f"))),
  },
  {
    name: "config",
    checksum: "whole",
    file: await lay(
      "config",
      configFile,
      encodeConfig({
        command: "pretrain",
        settings: { lr: 0.1, clusters: [2, 10] },
        versions: { advcl: "0.1.0" },
        commit: null,
      }),
    ),
    read: async (folder) => JSON.stringify((await readRunConfig(folder, "resume")) ?? null),
  },
  {
    name: "results",
    checksum: "whole",
    file: await lay("results", "f", sealed({ accuracy: 0.75, attacks: { pgd20: { right: 12, count: 50 } } }, 2)),
    read: async (folder) => JSON.stringify((await readSealed(join(folder, "f"))) ?? null),
  },
];

/** Lays a sound file of each kind under `root`, each in a folder named after its subject. */
export const prepare = async (root: string): Promise<readonly Subject[]> => {
  const lay: Lay = async (name, file, bytes) => {
    await mkdir(join(root, name), { recursive: true });
    await writeFile(join(root, name, file), bytes);
    return file;
  };
  return [
    ...(await weightsSubjects(lay)),
    ...(await arraySubjects(root, lay)),
    ...(await datasetSubjects(root)),
    ...(await imageSubjects(lay)),
    ...(await runSubjects(root, lay)),
    ...(await otherSubjects(lay)),
  ];
};
