/**
 * A run in one file: a safetensors file with the weights in PyTorch's names, and in its metadata what the run is. PyTorch
 * loads it as any other; commands begin from it as from the run folder.
 */
import { createHash } from "node:crypto";
import { open, stat } from "node:fs/promises";
import { z } from "zod";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { ourName } from "../deploy/import/names.ts";
import { RequestError } from "../errors.ts";
import { type NamedTensors, readSafetensors } from "../files/safetensors.ts";
import { checkSeal, sealed } from "../files/seal.ts";
import { sniffFile } from "../files/sniff.ts";
import type { Checkpoint, Json } from "./checkpoint.ts";
import type { RunConfig } from "./config.ts";
import { shippedFile } from "./shipped.ts";

const key = "advcl.run";

/** The parts of a checkpoint's state that say what its weights are. */
const toldOfState = ["clusters", "classes", "metrics"] as const;

const recordSchema = z.object({
  command: z.string(),
  settings: z.record(
    z.string(),
    z.union([z.string(), z.number(), z.boolean(), z.array(z.number()), z.array(z.string())]),
  ),
  versions: z.record(z.string(), z.string()),
  commit: z.string().nullable(),
  epoch: z.number(),
  step: z.int().nonnegative(),
  state: z.record(z.string(), z.json()),
  /** Whose names the tensors have. */
  layout: z.enum(["authors", "torchvision"]),
  /** SHA-256 of the tensors. */
  tensors: z.string(),
});

/** SHA-256 over names, shapes and bytes of tensors in the order of their names. */
const digestOfTensors = (tensors: NamedTensors): string => {
  const hash = createHash("sha256");
  const entries = tensors instanceof Map ? [...tensors] : Object.entries(tensors);
  for (const [name, { dtype, shape, data }] of entries.sort(([a], [b]) => (a < b ? -1 : 1)) as [string, Tensor][])
    hash
      .update(JSON.stringify([name, dtype, shape]))
      .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return hash.digest("hex");
};

/** A run's weights as a file has them. */
export interface RunWeights {
  readonly tensors: NamedTensors;
  readonly layout: "authors" | "torchvision";
  /** The network that they are, as a checkpoint keeps it. */
  readonly network: Json;
}

/**
 * Metadata by which a file of a run's weights stands for the run. Files and folders of the machine it was made on are left out.
 */
export const runMetadata = (
  { config, checkpoint }: { readonly config: RunConfig; readonly checkpoint: Checkpoint },
  { tensors, layout, network }: RunWeights,
): Record<string, string> => {
  const { command, settings, paths = {}, versions, commit } = config;
  const told = Object.entries(settings).filter(([name, value]) => value !== undefined && !Object.hasOwn(paths, name));
  const kept = toldOfState.flatMap((name): [string, Json][] => {
    const value = checkpoint.state[name];
    return value === undefined ? [] : [[name, value]];
  });
  const { epoch, step } = checkpoint;
  const state = { ...Object.fromEntries(kept), network };
  const record = { command, settings: Object.fromEntries(told), versions, commit, epoch, step, state, layout };
  return { [key]: sealed({ ...record, tensors: digestOfTensors(tensors) }) };
};

/** How a run's checkpoint names what PyTorch calls `name`. */
const checkpointName = (name: string): string => {
  if (name.endsWith("num_batches_tracked")) return `extra.${name}`;
  return /running_(mean|var)$/.test(name) ? `state.${name}` : `param.${name}`;
};

/** The file that a path or the name of a shipped encoder means; undefined where that is a folder, or nothing. */
const fileOf = async (path: string): Promise<string | undefined> => {
  const file = shippedFile(path) ?? path;
  const entry = await stat(file).catch(() => undefined);
  return entry?.isFile() ? file : undefined;
};

/**
 * Whether a path is a run's: its folder, its file, or the name of one that ships. Nothing is read of a large file but its header.
 * @throws the file system's error where there is nothing
 */
export const holdsRun = async (path: string): Promise<boolean> => {
  const file = await fileOf(path);
  return file === undefined ? (await stat(path)).isDirectory() : hasRecord(file);
};

/** Whether a file's metadata tell of a run. */
const hasRecord = async (file: string): Promise<boolean> => {
  if ((await sniffFile(file)).kind !== "safetensors") return false;
  const handle = await open(file, "r");
  try {
    const length = Buffer.alloc(8);
    await handle.read(length, 0, 8, 0);
    const header = Buffer.alloc(Number(length.readBigUInt64LE() & 0xffffffn));
    await handle.read(header, 0, header.length, 8);
    return header.includes(`"${key}"`);
  } finally {
    await handle.close();
  }
};

/**
 * The run that a file holds, or the name of a shipped one means.
 * @returns undefined where it is no such file
 * @throws RequestError where the file was changed after it was written
 */
export const readRunFile = async (
  path: string,
): Promise<{ readonly config: RunConfig; readonly checkpoint: Checkpoint } | undefined> => {
  const file = await fileOf(path);
  if (file === undefined || !(await hasRecord(file))) return undefined;
  const { tensors, metadata } = await readSafetensors(file);
  const { [key]: text, ...rest } = metadata;
  let value: unknown;
  try {
    value = JSON.parse(text ?? "");
  } catch {
    value = undefined;
  }
  const checked = checkSeal(value);
  const { success, data } = recordSchema.safeParse(checked?.content);
  if (!success || checked?.seal !== "fits" || data.tensors !== digestOfTensors(tensors))
    throw new RequestError(
      `${path} was changed after advcl export wrote it; export it anew, or take its weights as they are with advcl import`,
    );
  const { command, settings, versions, commit, epoch, step, state, layout } = data;
  const ours = layout === "torchvision" ? ourName : (name: string) => name;
  const named = new Map([...tensors].map(([name, tensor]) => [checkpointName(ours(name)), tensor]));
  return {
    config: { command, settings, versions, commit },
    checkpoint: {
      ...{ path: file, epoch, step, logs: {}, tensors: named },
      state: { ...state, ...(Object.keys(rest).length > 0 && { metadata: rest }) },
    },
  };
};
