import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { RunError } from "../errors.ts";
import { removeAtomic, writeFileAtomic, writeFolderAtomic } from "../files/atomic.ts";
import { fileError } from "../files/file-error.ts";
import { type NamedTensors, readSafetensors, writeSafetensors } from "../files/safetensors.ts";

/** What JSON holds. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** What a checkpoint holds besides tensors. */
export interface Progress {
  /** Epochs finished. */
  readonly epoch: number;
  /** Steps finished: the checkpoint's number. */
  readonly step: number;
  /** What else the run needs to go on: its best figure, its place in the epoch. */
  readonly state: Readonly<Record<string, Json>>;
}

/** A checkpoint as read from disk, found whole. */
export interface Checkpoint extends Progress {
  /** Its folder. */
  readonly path: string;
  readonly tensors: Map<string, Tensor>;
  /** Length in bytes of each log of the run at that step, by path within the run folder. */
  readonly logs: Readonly<Record<string, number>>;
  /** Settings of the run that it continues, but for those that may change; undefined in checkpoints of before these were kept. */
  readonly settings?: Readonly<Record<string, Json>> | undefined;
}

/** What is written: `stopgap` marks a checkpoint of an interrupted run, off its schedule, which the next one replaces. */
export interface NewCheckpoint extends Progress {
  readonly tensors: NamedTensors;
  readonly logs: Readonly<Record<string, number>>;
  readonly stopgap: boolean;
  readonly settings: Readonly<Record<string, Json>>;
}

const tensorsFile = "tensors.safetensors";
const stateFile = "state.json";

const stateSchema = z.object({
  epoch: z.number(),
  step: z.int().nonnegative(),
  state: z.record(z.string(), z.json()),
  logs: z.record(z.string(), z.int().nonnegative()),
  stopgap: z.boolean(),
  settings: z.record(z.string(), z.json()).optional(),
  /** SHA-256 of tensors.safetensors, hexadecimal. */
  tensors: z.string(),
});

/** state.json carries the SHA-256 of the text of its own content, so that damage to it is seen as well. */
const signedSchema = z.object({ content: stateSchema, sha256: z.string() });

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

const sha256OfFile = async (path: string): Promise<string> => {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(piece as Buffer);
  return hash.digest("hex");
};

const nameOf = (step: number): string => String(step).padStart(6, "0");

/** Steps of the checkpoints in a folder, rising; none where the folder is missing. */
const stepsIn = async (folder: string): Promise<number[]> => {
  try {
    const names = await readdir(folder);
    return names
      .filter((name) => /^\d{6,}$/.test(name))
      .map(Number)
      .sort((a, b) => a - b);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw fileError(error, "read", folder);
  }
};

/** Writes `folder/NNNNNN` (six digits of the step, or more), whole or not at all. Returns its path. */
export const writeCheckpoint = async (folder: string, checkpoint: NewCheckpoint): Promise<string> => {
  const { epoch, step, state, logs, stopgap, settings } = checkpoint;
  const path = join(folder, nameOf(step));
  await writeFolderAtomic(path, async (temporary) => {
    await writeSafetensors(join(temporary, tensorsFile), checkpoint.tensors);
    const tensors = await sha256OfFile(join(temporary, tensorsFile));
    const content = { epoch, step, state, logs, stopgap, settings, tensors };
    const signed = { content, sha256: sha256(JSON.stringify(content)) };
    await writeFileAtomic(join(temporary, stateFile), `${JSON.stringify(signed, null, 2)}\n`);
  });
  return path;
};

const readState = async (path: string): Promise<z.infer<typeof stateSchema>> => {
  const text = await readFile(join(path, stateFile), "utf8");
  const parsed: unknown = JSON.parse(text);
  const { content, sha256: expected } = signedSchema.parse(parsed);
  if (sha256(JSON.stringify((parsed as { content: unknown }).content)) !== expected)
    throw new Error(`${stateFile} was changed`);
  return content;
};

const readCheckpoint = async (path: string): Promise<Checkpoint> => {
  const { epoch, step, state, logs, settings, tensors: expected } = await readState(path);
  if ((await sha256OfFile(join(path, tensorsFile))) !== expected) throw new Error(`${tensorsFile} was changed`);
  const { tensors } = await readSafetensors(join(path, tensorsFile));
  return { path, epoch, step, state, logs, settings, tensors };
};

/**
 * The newest checkpoint in a folder that reads whole; each damaged one is passed over with a warning.
 *
 * @returns undefined where there are no checkpoints
 * @throws RunError where there are some but none reads whole
 */
export const latestCheckpoint = async (
  folder: string,
  warn: (message: string) => void,
): Promise<Checkpoint | undefined> => {
  const steps = await stepsIn(folder);
  let vanished = false;
  for (const step of steps.reverse()) {
    const path = join(folder, nameOf(step));
    try {
      return await readCheckpoint(path);
    } catch (error) {
      if (!(await stepsIn(folder)).includes(step)) {
        vanished = true; // removed meanwhile by the run that writes here, for newer ones
        continue;
      }
      const reason = error instanceof z.ZodError ? `${stateFile} lacks what it should hold` : (error as Error).message;
      warn(`checkpoint ${path} is damaged (${reason}); trying the one before it`);
    }
  }
  if (vanished) return latestCheckpoint(folder, warn);
  if (steps.length > 0) throw new RunError(`no checkpoint in ${folder} reads whole; remove the folder to start over`);
  return undefined;
};

/** Removes the checkpoints after `step`: damaged ones that a resumed run will write again. */
export const removeCheckpointsAfter = async (folder: string, step: number): Promise<void> => {
  for (const other of await stepsIn(folder)) if (other > step) await removeAtomic(join(folder, nameOf(other)));
};

const isStopgap = async (path: string): Promise<boolean> =>
  readState(path).then(
    ({ stopgap }) => stopgap,
    () => false,
  );

/**
 * Removes old checkpoints: all but the last `keep` and those whose step is a multiple of `keepEvery`. A stopgap is
 * removed as soon as a later one stands, so that an interrupted run leaves what an uninterrupted one does.
 */
export const pruneCheckpoints = async (folder: string, keep: number, keepEvery: number | undefined): Promise<void> => {
  const steps = await stepsIn(folder);
  const scheduled: number[] = [];
  for (const step of steps) {
    const path = join(folder, nameOf(step));
    if (step !== steps.at(-1) && (await isStopgap(path))) await removeAtomic(path);
    else scheduled.push(step);
  }
  for (const step of scheduled.slice(0, Math.max(0, scheduled.length - keep)))
    if (keepEvery === undefined || step % keepEvery !== 0) await removeAtomic(join(folder, nameOf(step)));
};
