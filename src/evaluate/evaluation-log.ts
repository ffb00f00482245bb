/** Finished batches of an evaluation on disk, so that a killed one goes on where it was, and adversarial images beside. */
import { existsSync, readFileSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";
import { readSafetensors, writeSafetensors } from "../files/safetensors.ts";
import { checkSeal, sealed } from "../files/seal.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import type { ChunkRecord, EvaluatedImages, EvaluationLog } from "./types.ts";

const logFile = "finished.jsonl";
const partsFolder = "adversarial";

/** An image that an attack made. */
export interface Adversarial {
  readonly x: Float32Array;
  readonly prediction: number;
  readonly broken: boolean;
}

export interface DiskLog extends EvaluationLog {
  /** What was kept, by stage and position of the image. */
  kept(): Promise<Map<string, Map<number, Adversarial>>>;
  /** Writes one file a stage with all its images, and removes the pieces. */
  merge(): Promise<string[]>;
  /** Removes what was kept. */
  clear(): Promise<void>;
}

export interface DiskLogOptions {
  readonly images: EvaluatedImages;
  /** SHA-256 of the model: a log of another one is refused. */
  readonly digest: string;
  /** Which images of a stage are kept. */
  readonly keeps: (position: number) => boolean;
}

const fileOf = (stage: string, chunk: number): string =>
  `${stage.replaceAll("/", ".")}-${String(chunk).padStart(5, "0")}.safetensors`;

/** A log in memory: for evaluations that write no folder. */
export const memoryLog = (finished: ReadonlyMap<string, ChunkRecord> = new Map()): EvaluationLog => ({
  finished,
  append: () => {},
});

/** Chunks that the lines of a log tell of. Throws a RequestError where they are damaged or of another model. */
const readLog = (path: string, folder: string, digest: string): Map<string, ChunkRecord> | undefined => {
  const lines = existsSync(path)
    ? readFileSync(path, "utf8")
        .split("\n")
        .filter((line) => line !== "")
    : [];
  if (lines.length === 0) return undefined;
  const finished = new Map<string, ChunkRecord>();
  lines.forEach((line, i) => {
    let checked: ReturnType<typeof checkSeal>;
    try {
      checked = checkSeal(JSON.parse(line));
    } catch {
      checked = undefined;
    }
    if (checked?.seal !== "fits")
      throw new RequestError(
        `${path} is damaged or was changed in line ${i + 1}; ${i === 0 ? "choose another folder" : "remove that line, and its images are attacked again"}`,
      );
    const record = checked.content as unknown as ChunkRecord & { readonly model?: string };
    if (i === 0 && record.model !== digest)
      throw new RequestError(`${folder} holds an evaluation of another model; choose another folder`);
    if (i > 0) finished.set(`${record.stage}/${record.chunk}`, record);
  });
  return finished;
};

/** A file of adversarial images of one chunk. */
interface Piece {
  readonly name: string;
  readonly stage: string;
}

const piecesIn = async (folder: string): Promise<Piece[]> =>
  existsSync(folder)
    ? (await readdir(folder))
        .filter((name) => /-\d{5}\.safetensors$/.test(name))
        .sort()
        .map((name) => ({ name, stage: name.replace(/-\d{5}\.safetensors$/, "") }))
    : [];

/** Writes the images of a chunk that are to be kept. */
const keepImages = async (
  folder: string,
  { images, keeps }: DiskLogOptions,
  { stage, chunk, images: outcomes }: ChunkRecord,
  x: readonly Float32Array[],
): Promise<void> => {
  const chosen = x.flatMap((_, k) => (keeps(outcomes[k]!.i) && stage !== "clean" ? [k] : []));
  if (chosen.length === 0) return;
  const pick = (value: (k: number) => number): Tensor =>
    tensor("int32", [chosen.length], Int32Array.from(chosen, value));
  const length = x[0]!.length;
  const all = new Float32Array(chosen.length * length);
  chosen.forEach((k, row) => {
    all.set(x[k]!, row * length);
  });
  await mkdir(folder, { recursive: true });
  await writeSafetensors(join(folder, fileOf(stage, chunk)), {
    x: tensor("float32", [chosen.length, ...images.shape], all),
    position: pick((k) => outcomes[k]!.i),
    index: pick((k) => images.index[outcomes[k]!.i]!),
    label: pick((k) => images.labels[outcomes[k]!.i]!),
    prediction: pick((k) => outcomes[k]!.prediction),
    broken: pick((k) => Number(outcomes[k]!.broken)),
  });
};

/** What was kept, by stage and position of the image. */
const readKept = async (folder: string): Promise<Map<string, Map<number, Adversarial>>> => {
  const stages = new Map<string, Map<number, Adversarial>>();
  for (const { name, stage } of await piecesIn(folder)) {
    const { tensors } = await readSafetensors(join(folder, name));
    const numbers = (key: string) => tensors.get(key)!.data as Int32Array;
    const x = tensors.get("x")!.data as Float32Array;
    const found = stages.get(stage) ?? new Map<number, Adversarial>();
    stages.set(stage, found);
    const [positions, predictions, broken] = [numbers("position"), numbers("prediction"), numbers("broken")];
    const length = x.length / positions.length;
    positions.forEach((position, k) => {
      const image = x.slice(k * length, (k + 1) * length);
      found.set(position, { x: image, prediction: predictions[k]!, broken: broken[k] === 1 });
    });
  }
  return stages;
};

/** Joins the pieces of each stage to one file. */
const mergeKept = async (folder: string): Promise<string[]> => {
  const pieces = await piecesIn(folder);
  const written: string[] = [];
  for (const stage of new Set(pieces.map((piece) => piece.stage))) {
    const own = pieces.filter((piece) => piece.stage === stage);
    const files = await Promise.all(own.map(({ name }) => readSafetensors(join(folder, name))));
    const joined: Record<string, Tensor> = {};
    for (const key of ["x", "index", "label", "prediction", "broken"])
      joined[key] = concatenated(files.map(({ tensors }) => tensors.get(key)!));
    const path = join(folder, `${stage}.safetensors`);
    await writeSafetensors(path, joined);
    written.push(path);
    for (const { name } of own) await rm(join(folder, name));
  }
  return written;
};

/** Opens the log of a run folder. Throws a RequestError where it is of another model. */
export const openEvaluationLog = (run: RunFolder, options: DiskLogOptions): DiskLog => {
  const file = run.appendTo(logFile, { history: true });
  const known = readLog(join(run.path, logFile), run.path, options.digest);
  if (known === undefined) file.append(`${sealed({ model: options.digest })}\n`);
  const finished = known ?? new Map<string, ChunkRecord>();
  const folder = join(run.path, partsFolder);
  return {
    finished,
    append: (record) => {
      finished.set(`${record.stage}/${record.chunk}`, record);
      file.append(`${sealed(record)}\n`);
      file.sync();
    },
    keep: (record, x) => keepImages(folder, options, record, x),
    kept: () => readKept(folder),
    merge: () => mergeKept(folder),
    clear: () => rm(folder, { recursive: true, force: true }),
  };
};

const concatenated = (tensors: readonly Tensor[]): Tensor => {
  const [first] = tensors as [Tensor];
  const count = tensors.reduce((n, t) => n + t.shape[0]!, 0);
  const data =
    first.dtype === "int32" ? new Int32Array(count) : new Float32Array((first.data.length / first.shape[0]!) * count);
  let at = 0;
  for (const t of tensors) {
    data.set(t.data as Float32Array, at);
    at += t.data.length;
  }
  return { dtype: first.dtype, shape: [count, ...first.shape.slice(1)], data };
};
