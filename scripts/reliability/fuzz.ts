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
import type { Random } from "../../src/data/random.ts";
import { isOurs } from "../../src/errors.ts";
import { openNpy } from "../../src/files/npy.ts";
import { encodeSafetensors } from "../../src/files/safetensors.ts";
import { readSealed, sealed } from "../../src/files/seal.ts";
import { readWeights } from "../../src/files/weights.ts";
import { configFile, encodeConfig, readRunConfig } from "../../src/runs/config.ts";
import { readMetrics } from "../../src/runs/metrics.ts";

/** What a format can notice by itself: any change, changes of its headers only, or none that leaves it well-formed. */
export type Checksum = "whole" | "headers" | "none";

/** A reader and a sound file for it. */
export interface Subject {
  readonly name: string;
  readonly checksum: Checksum;
  /** The file that is damaged, from the folder that is its own. */
  readonly file: string;
  /** What the reader makes of the folder, as a text that differs where the content does. */
  readonly read: (folder: string) => Promise<string>;
}

/** What came of a damaged file. */
export type Outcome = "refused" | "same" | "other" | "fault";

export interface Verdict {
  readonly outcome: Outcome;
  /** Of a refusal or a fault. */
  readonly message: string;
}

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
  await cp(fixture("cifar/cifar-10-batches-py"), join(root, "cifar-python"), { recursive: true });
  const read = (folder: string): Promise<string> => ofDataset("cifar10", folder);
  return [
    { name: "tar.gz", checksum: "whole", file: archive, read },
    { name: "tar", checksum: "headers", file: archive, read },
    { name: "cifar", checksum: "none", file: "data_batch_3.bin", read },
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
  return Promise.all(
    files.map(async ([name, checksum, encoded]) => ({
      name,
      checksum,
      file: await lay(name, `a.${name}`, await encoded.toBuffer()),
      read: (folder) => ofDataset("folder", folder, 16),
    })),
  );
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
    ...(await otherSubjects(lay)),
  ];
};

/** Numbers that lengths and counts go wrong at, as 1, 2, 4 or 8 bytes. */
const edges = [
  0n,
  1n,
  0x7fn,
  0xffn,
  0x7fffn,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
];

/** A damaged copy: a bit turned, a byte or number replaced, a part cut out, repeated, blanked or filled in. */
export const mutate = (sound: Uint8Array, r: Random): Uint8Array => {
  const bytes = new Uint8Array(sound); // a Buffer's slices are views
  const at = r.int(bytes.length);
  const end = Math.min(bytes.length, at + 1 + r.int(1 + r.int(64)));
  const out = bytes.slice();
  const joined = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));
  switch (r.int(9)) {
    case 0:
    case 1:
      out[at]! ^= 1 << r.int(8);
      return out;
    case 2:
      out[at] = r.int(256);
      return out;
    case 3: {
      const value = Buffer.alloc(8);
      value.writeBigUInt64LE(edges[r.int(edges.length)]!);
      const width = 1 << r.int(4);
      out.set(value.subarray(0, Math.min(width, bytes.length - at)), at);
      return out;
    }
    case 4:
      return bytes.slice(0, at);
    case 5:
      return joined(bytes.subarray(0, at), bytes.subarray(end));
    case 6:
      return joined(bytes.subarray(0, end), bytes.subarray(at));
    case 7:
      return out.fill(0, at, end);
    default:
      return joined(
        bytes.subarray(0, at),
        Uint8Array.from({ length: 1 + r.int(16) }, () => r.int(256)),
        bytes.subarray(at),
      );
  }
};

/** A reader that takes so long over a file of a few kilobytes is out of proportion. */
const slow = 10_000;

/** Lays `bytes` in the place of a subject's file and reads it. */
export const judge = async (root: string, subject: Subject, sound: string, bytes: Uint8Array): Promise<Verdict> => {
  const folder = join(root, subject.name);
  await writeFile(join(folder, subject.file), bytes);
  const began = performance.now();
  let verdict: Verdict;
  let timer: NodeJS.Timeout | undefined;
  const never = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("it never settles")), slow);
  });
  try {
    const content = await Promise.race([subject.read(folder), never]);
    verdict = { outcome: content === sound ? "same" : "other", message: "" };
    if (verdict.outcome === "other" && subject.checksum === "whole")
      verdict = { outcome: "fault", message: "other content in spite of a checksum" };
  } catch (error) {
    const { name, message, stack } = error as Error;
    const isSentence = isOurs(error) && !/internal:/.test(message) && name !== "RunError";
    verdict = isSentence ? { outcome: "refused", message } : { outcome: "fault", message: stack ?? String(error) };
  } finally {
    clearTimeout(timer);
  }
  const took = performance.now() - began;
  return took < slow ? verdict : { outcome: "fault", message: `it took ${(took / 1000).toFixed(1)} s` };
};
