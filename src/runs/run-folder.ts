import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { RequestError } from "../errors.ts";
import { AppendFile, type Log, wholeLines } from "../files/append-file.ts";
import { isFolder, isPartial, makeFolder, removePartials, writeFileAtomic } from "../files/atomic.ts";
import { fileError } from "../files/file-error.ts";
import { isLock, lockFolder } from "../files/lock.ts";
import type { NamedTensors } from "../files/safetensors.ts";
import { gitCommit, versions } from "../version.ts";
import {
  type Checkpoint,
  latestCheckpoint,
  type Progress,
  pruneCheckpoints,
  removeCheckpointsAfter,
  writeCheckpoint,
} from "./checkpoint.ts";
import { configFile, encodeConfig, pathsOf, type RunConfig, readRunConfig } from "./config.ts";
import { fixedSettings, type ResumeRules, reconcile } from "./resume.ts";
import { shippedNames } from "./shipped.ts";

export { configFile, type RunConfig, readRunConfig } from "./config.ts";

/** Where a run keeps what led to a loss that is not finite. */
export const divergedFolder = "diverged";

export interface RunFolderOptions extends ResumeRules {
  /** Go on with the run that the folder holds. */
  readonly resume?: boolean;
  /** Whether such a run can be resumed at all (default true). */
  readonly resumable?: boolean;
  /** How graphs are lowered where that was left to the machine. */
  readonly target?: string | undefined;
  /** Checkpoints to keep: the last so many (default 2) … */
  readonly keep?: number;
  /** … and each whose step is a multiple of this. */
  readonly keepEvery?: number;
}

export interface SaveOptions extends Progress {
  readonly tensors: NamedTensors;
  /** A checkpoint off the schedule, of a run that is being interrupted; the next one replaces it. */
  readonly stopgap?: boolean;
}

/** A run folder held by this process alone. */
export interface RunFolder {
  readonly path: string;
  readonly config: RunConfig;
  /** Where a resumed run goes on; undefined where it begins. */
  readonly resumed: Checkpoint | undefined;
  /**
   * Opens a log of the run (`metrics.jsonl`), cut back to its length at the resumed step, so that a run that was killed
   * and resumed writes the same log as one that was not. Closed with the folder.
   *
   * @param history keep what was written after that step too: for logs of the clock, which tell what really happened
   */
  appendTo(name: string, options?: { readonly history?: boolean }): Log;
  /** Flushes the logs and writes a checkpoint, whole or not at all, then removes old ones. Returns its path. */
  save(checkpoint: SaveOptions): Promise<string>;
  /** Closes the logs and gives the folder free. Safe to call twice. */
  close(): Promise<void>;
}

const checkpointsFolder = "checkpoints";

/** What else could have been given. */
const namesToo = (): string => {
  const names = shippedNames();
  return names.length === 0 ? "" : `, or give one that ships: ${names.join(", ")}`;
};

/**
 * The config and newest whole checkpoint of a run, for commands that start from it; it may be being written meanwhile.
 *
 * @throws RequestError where the folder holds no run or the run has no checkpoint yet
 */
export const readRun = async (
  folder: string,
  warn: (message: string) => void,
): Promise<{ readonly config: RunConfig; readonly checkpoint: Checkpoint }> => {
  const config = await readRunConfig(folder);
  if (config === undefined)
    throw new RequestError(`${folder} is not a run folder: it has no ${configFile}; check the path${namesToo()}`);
  const checkpoint = await latestCheckpoint(join(folder, checkpointsFolder), warn);
  if (checkpoint === undefined)
    throw new RequestError(`the run in ${folder} has no checkpoint yet; let it go on until it has one`);
  return { config, checkpoint };
};

const warnOfVersions = (before: RunConfig, now: RunConfig, warn: (message: string) => void): void => {
  const names = new Set([...Object.keys(before.versions), ...Object.keys(now.versions)]);
  const changes = [...names]
    .filter((name) => before.versions[name] !== now.versions[name])
    .map((name) => `${name} ${before.versions[name] ?? "none"} → ${now.versions[name] ?? "none"}`);
  if (before.target !== undefined && now.target !== undefined && before.target !== now.target)
    changes.push(`target ${before.target} → ${now.target}`);
  if (before.commit !== now.commit) changes.push(`commit ${before.commit ?? "unknown"} → ${now.commit ?? "unknown"}`);
  if (changes.length > 0)
    warn(`the run was begun by other versions (${changes.join(", ")}): results may differ slightly`);
};

/** Whether no checkpoint is in a folder, or no such folder is there. */
const isBare = async (checkpoints: string): Promise<boolean> =>
  readdir(checkpoints).then(
    (names) => names.every(isPartial),
    () => true,
  );

/** Checks what the folder holds, writes its config and finds where to go on. The lock is held. */
const prepare = async (
  folder: string,
  options: RunFolderOptions,
): Promise<{ config: RunConfig; resumed: Checkpoint | undefined }> => {
  const { command, settings, resume = false, resumable = true, override = false, keep = 2, keepEvery, warn } = options;
  const paths = pathsOf(settings, options.paths ?? []);
  const config: RunConfig = {
    ...{ command, settings, ...(Object.keys(paths).length > 0 && { paths }) },
    ...options.basis,
    ...(options.target !== undefined && { target: options.target }),
    ...{ versions: versions(), commit: await gitCommit() },
  };
  const names = (await readdir(folder)).filter((name) => !isLock(name) && !isPartial(name));
  const before = await readRunConfig(folder, override ? "override" : resume ? "resume" : "base");
  if (before === undefined && names.length > 0)
    throw new RequestError(
      `${folder} holds files that are not of a run (${names.sort()[0]}); choose an empty or new folder`,
    );
  const checkpoints = join(folder, checkpointsFolder);
  // What cannot be resumed begins again where it failed.
  const failed = before?.command === command && !resumable && (await isBare(checkpoints));
  if (before !== undefined && !resume && !failed)
    throw new RequestError(
      `${folder} holds a run of ${before.command} already; choose another folder${resumable ? " or add --resume to go on with it" : ""}`,
    );
  if (before === undefined || failed) {
    if (resume) warn(`${folder} holds no run to resume: starting from the beginning`);
    await removePartials(folder);
    await writeFileAtomic(join(folder, configFile), encodeConfig(config));
    return { config, resumed: undefined };
  }
  const resumed = await latestCheckpoint(checkpoints, warn);
  const now = reconcile(folder, before, options, resumed, await isFolder(join(folder, divergedFolder)));
  warnOfVersions(before, config, warn);
  await removePartials(folder);
  await mkdir(checkpoints, { recursive: true });
  await removePartials(checkpoints);
  if (resumed !== undefined) await removeCheckpointsAfter(checkpoints, resumed.step);
  await pruneCheckpoints(checkpoints, keep, keepEvery);
  const encoded = encodeConfig(now);
  if (override || encoded !== encodeConfig(before)) await writeFileAtomic(join(folder, configFile), encoded);
  return { config: now, resumed };
};

/**
 * Makes a run folder, or with `resume` goes on with the run that it holds. The folder is held by this process until it
 * is closed or the process ends, however it ends.
 *
 * @throws RequestError where another living process writes it, where it holds another run (and no `resume`) or foreign
 *   files, where config.yaml was changed, and where a resumed run's settings differ from it (each is named); RunError where no checkpoint of
 *   a resumed run reads whole
 */
export const openRunFolder = async (folder: string, options: RunFolderOptions): Promise<RunFolder> => {
  const { keep = 2, keepEvery } = options;
  if (!Number.isInteger(keep) || keep < 1) throw new RangeError(`keep is ${keep}: at least 1 checkpoint must be kept`);
  await makeFolder(folder);
  const release = await lockFolder(folder);
  const { config, resumed } = await prepare(folder, options).catch(async (error: unknown) => {
    await release();
    throw fileError(error, "open", folder);
  });
  const checkpoints = join(folder, checkpointsFolder);
  const open = new Map<string, AppendFile>();
  const lengths: Record<string, number> = { ...resumed?.logs };
  const histories = new Set<string>();
  const appendTo: RunFolder["appendTo"] = (name, { history = false } = {}) => {
    if (open.has(name)) throw new Error(`internal: ${name} is open already`);
    const path = join(folder, name);
    const length = history ? wholeLines(path) : (lengths[name] ?? 0);
    const file = new AppendFile(path, length);
    if (file.size < length)
      options.warn(`${path} is shorter than it was at the checkpoint: what was written last is missing from it`);
    if (history) histories.add(name);
    open.set(name, file);
    return file;
  };
  // Cut every log back now, should this run not write it at all.
  for (const name of Object.keys(lengths)) {
    appendTo(name).close();
    open.delete(name);
  }
  return {
    path: folder,
    config,
    resumed,
    appendTo,
    save: async ({ tensors, epoch, step, state, stopgap = false }) => {
      for (const [name, file] of open) {
        file.sync();
        if (!histories.has(name)) lengths[name] = file.size;
      }
      const settings = fixedSettings(config.settings, options);
      const content = { tensors, epoch, step, state, stopgap, settings, logs: { ...lengths } };
      const path = await writeCheckpoint(checkpoints, content);
      await pruneCheckpoints(checkpoints, keep, keepEvery);
      return path;
    },
    close: async () => {
      for (const file of open.values()) file.close();
      open.clear();
      await release();
    },
  };
};
