/** A verb: a function of the library that does what a command does. */
import type { z } from "zod";
import { alone, type Collective } from "../distributed/collective.ts";
import { launched } from "../distributed/launcher.ts";
import { threadsHere } from "../distributed/threads.ts";
import { RequestError } from "../errors.ts";
import { warnOfUnits } from "../models/units.ts";
import type { Basis, RunConfig } from "../runs/config.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import type { SettingValue } from "../settings/name.ts";
import { readObject } from "../settings/resolve.ts";
import type { SettingRow } from "../settings/schema.ts";
import { defineSpec, type Given, type Resolved, type Spec, type SpecDefinition } from "../settings/spec.ts";
import { type ProgressLine, quietReporter, type Reporter } from "./reporter.ts";

/** Thrown where a verb stopped because its signal was aborted, after it saved what it had. */
export class Interrupted extends Error {
  override readonly name = "AbortError";
}

export interface VerbOptions {
  /** Who is told of the progress (default: nobody; warnings are emitted as Node's). */
  readonly reporter?: Reporter;
  /** Aborted, the verb finishes its step, saves and rejects with `Interrupted`. */
  readonly signal?: AbortSignal;
}

/** What a verb works with besides its settings. */
export interface VerbContext extends Reporter {
  readonly signal: AbortSignal;
  /** Settings that make the run what it is, for its config.yaml. */
  readonly recorded: Readonly<Record<string, SettingValue>>;
  /** Keys of settings that may differ when a run is resumed. */
  readonly changeable: readonly string[];
  /**
   * Opens the run folder of --out, as --resume says; closed with the verb if it is not before.
   *
   * @throws RequestError where --out is missing, or as `openRunFolder`
   */
  openRun(options?: {
    readonly keep?: number;
    readonly keepEvery?: number;
    /** Processes that share the run. */
    readonly collective?: Collective;
    /** What a resumed run must find again besides its settings. */
    readonly basis?: Basis;
    /** How graphs are lowered where that was left to the machine. */
    readonly target?: string | undefined;
  }): Promise<RunFolder>;
  /** What the run was begun with that --resume goes on with; undefined where there is none. */
  begun(): Promise<RunConfig | undefined>;
}

type Shape = Readonly<Record<string, z.ZodType>>;

/**
 * Does its work and returns the results.
 *
 * @throws RequestError where the request is wrong, RunError where the work failed, Interrupted where the signal was aborted
 */
export interface Verb<Own extends Shape, Result> {
  (settings: Given<Own>, options?: VerbOptions): Promise<Result>;
  readonly spec: Spec<Own>;
  /** The same with settings that `spec.resolve` gave. */
  perform(settings: Resolved<Own>, options?: VerbOptions): Promise<Result>;
}

/** Settings that say how a run is asked for, not what it is: neither kept in a run's config.yaml nor compared on resume. */
const unrecorded = ["preset", "out", "resume", "override"];

interface Opened {
  readonly context: VerbContext;
  close(): Promise<void>;
}

/** What the run was begun with that these settings go on with; undefined where there is none. */
const begunBy = async (
  spec: Pick<Spec, "runFolder">,
  { out, resume, override }: Readonly<Record<string, SettingValue>>,
): Promise<RunConfig | undefined> => {
  if (resume !== true || typeof out !== "string") return undefined;
  const { readRunConfig } = await import("../runs/config.ts");
  return readRunConfig(spec.runFolder(out), override === true ? "override" : "resume");
};

const openContext = (spec: Spec, settings: Readonly<Record<string, SettingValue>>, options: VerbOptions): Opened => {
  const { rows } = spec;
  const reporter = options.reporter ?? quietReporter;
  const lines: ProgressLine[] = [];
  const runs: RunFolder[] = [];
  const warned = new Set<string>();
  const recorded = Object.fromEntries(Object.entries(settings).filter(([key]) => !unrecorded.includes(key)));
  const changeable = Object.entries(rows).flatMap(([key, row]) => (row.changeable ? [key] : []));
  const context: VerbContext = {
    log: (message) => reporter.log(message),
    // What concerns the training and the test images alike is said once.
    warn: (message) => {
      if (!warned.has(message)) reporter.warn(message);
      warned.add(message);
    },
    print: (text) => reporter.print(text),
    progress: (shown) => {
      const line = reporter.progress(shown);
      lines.push(line);
      return line;
    },
    get signal() {
      return options.signal ?? new AbortController().signal;
    },
    recorded,
    changeable,
    begun: () => begunBy(spec, settings),
    openRun: async ({ collective = alone, ...kept } = {}) => {
      const { openRunFolder } = await import("../runs/run-folder.ts");
      const { openShared } = await import("../distributed/shared-run.ts");
      const { out, resume, override } = settings;
      if (typeof out !== "string") throw new RequestError("--out is missing: give the folder of the run");
      if (override === true && resume !== true)
        throw new RequestError("--override is of --resume: give both, or leave it out");
      const keysOf = (has: (row: SettingRow) => boolean) =>
        Object.keys(recorded).filter((key) => rows[key] !== undefined && has(rows[key]));
      const options = {
        command: spec.name,
        settings: recorded,
        changeable,
        lowers: keysOf((row) => row.lowers === true),
        paths: keysOf((row) => row.type === "path"),
        ...(rows.override && { override: override === true }),
        log: context.log,
        defaults: Object.fromEntries(Object.entries(rows).map(([key, row]) => [key, row.default as SettingValue])),
        resume: resume === true,
        resumable: rows.resume !== undefined,
        warn: context.warn,
        ...kept,
      };
      const run = await openShared(collective, () => openRunFolder(spec.runFolder(out), options));
      runs.push(run);
      return run;
    },
  };
  const close = async () => {
    for (const line of lines) line.stop();
    for (const run of runs) await run.close();
  };
  return { context, close };
};

/** Makes a verb of its settings and of what it does with them. */
export const defineVerb = <const Own extends Shape, Result>(
  definition: SpecDefinition<Own>,
  run: (settings: Resolved<Own>, context: VerbContext) => Promise<Result>,
): Verb<Own, Result> => {
  const spec = defineSpec(definition);
  const perform: Verb<Own, Result>["perform"] = async (settings, options = {}) => {
    const values = settings as Readonly<Record<string, SettingValue>>;
    const place = values.distributed === "none" ? undefined : launched();
    if (place !== undefined && !Object.hasOwn(spec.rows, "rankTimeout"))
      throw new RequestError(
        `${spec.name} runs in one process, and a launcher started ${place.size}; start it without mpirun or srun`,
      );
    if (values.replicas === "auto") {
      const { chooseReplicas } = await import("./replicas.ts");
      const { count, why } = await chooseReplicas(values, place, await begunBy(spec, values));
      options.reporter?.log(`--replicas auto: ${count} (${why})`);
      return perform({ ...settings, replicas: count }, options);
    }
    const size = Number(values.replicas ?? 1);
    if (size > 1 && threadsHere() === undefined) {
      if (place !== undefined)
        throw new RequestError("--replicas is of one process, and a launcher started several; leave it out");
      const { overThreads } = await import("./rank-threads.ts");
      const request = { verb: spec.name, settings: values, size, limitSeconds: Number(values.rankTimeout) };
      return overThreads({ ...request, signal: options.signal }, () => perform(settings, options));
    }
    const { context, close } = openContext(spec as unknown as Spec, values, options);
    try {
      warnOfUnits(values, context.warn);
      return await run(settings, context);
    } finally {
      await close();
    }
  };
  const verb = async (given: Given<Own>, options?: VerbOptions): Promise<Result> =>
    perform(await spec.resolve([readObject(spec.name, spec.rows, given, "")]), options);
  return Object.assign(verb, { spec, perform });
};
