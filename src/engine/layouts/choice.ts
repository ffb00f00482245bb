/** Where values lie on this machine's CPU: as it was timed here, else as its family of processors was, else as usual. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { type Limits, limitChannels, usualLimits } from "../../../graphs/targets/cpu/placing.ts";
import { writeFileAtomic } from "../../files/atomic.ts";
import { versions } from "../../version.ts";
import { processor } from "../devices.ts";
import { cacheFolder } from "../native/cache-folder.ts";
import { type LayoutRow, timeLayouts } from "./timing.ts";

export interface LayoutChoice {
  readonly limits: Limits;
  /** Whose times these are: this machine's, its family's, or nobody's. */
  readonly source: "timed" | "family" | "usual";
  /** For people. */
  readonly reason: string;
}

/**
 * Families that were timed, by the name of the processor and its vectors: there runs start at once. The Zen 4 was timed in whole steps:
 * with both cores in one core complex 64 channels by pixels are 1 to 6 % faster, in two complexes 5 to 11 % slower.
 */
const families: readonly { readonly name: RegExp; readonly vectors: string; readonly limits: Limits }[] = [
  { name: /Intel.*Xeon/, vectors: "AVX-512", limits: usualLimits },
  { name: /AMD EPYC/, vectors: "AVX-512", limits: usualLimits },
];

const side = z.union([z.literal("all").transform(() => Number.POSITIVE_INFINITY), z.number().min(0)]);
const cached = z.record(
  z.string(),
  z.object({ limits: z.array(side).length(limitChannels.length), date: z.string(), rows: z.array(z.unknown()) }),
);
type Cached = z.infer<typeof cached>;

/** What tells the processor, and what times it. */
export interface LayoutTools {
  readonly processor: () => { readonly name: string; readonly vectors: string };
  readonly time: typeof timeLayouts;
}
const ownTools: LayoutTools = { processor, time: timeLayouts };

export const layoutsFile = (): string => join(cacheFolder(), "layouts.json");

/**
 * What times depend on: the processor and who computes. They hold for any number of threads, since a run's bytes must not depend on
 * that, and what is faster hardly does.
 */
const keyOf = (block: number, tools: LayoutTools): string => {
  const { name, vectors } = tools.processor();
  const { advcl, "onnxruntime-node": engine } = versions();
  return `${name}, ${vectors}, blocks of ${block}, onnxruntime ${engine}, advcl ${advcl}`;
};

/** All that was timed before; a file that cannot be read is none. */
const readCached = async (): Promise<Cached> => {
  try {
    return cached.parse(JSON.parse(await readFile(layoutsFile(), "utf8")));
  } catch {
    return {};
  }
};

/** What is known of a processor with such blocks, without timing anything. */
export const knownLayouts = async (block: number, tools: LayoutTools = ownTools): Promise<LayoutChoice> => {
  const own = (await readCached())[keyOf(block, tools)];
  if (own !== undefined)
    return { limits: own.limits, source: "timed", reason: `timed here on ${own.date.slice(0, 10)} (${layoutsFile()})` };
  const { name, vectors } = tools.processor();
  const family = families.find((each) => each.name.test(name) && each.vectors === vectors);
  return family === undefined
    ? {
        limits: usualLimits,
        source: "usual",
        reason: "not timed yet: the first training does, or bench --what layouts",
      }
    : { limits: family.limits, source: "family", reason: "as timed on a processor of its family" };
};

/** Times this machine and keeps what it finds for the next time. A cache that cannot be written changes nothing else. */
export const timedLayouts = async (
  block: number,
  threads: number,
  each?: (row: LayoutRow) => void,
  tools: LayoutTools = ownTools,
): Promise<LayoutChoice> => {
  const { rows, limits } = await tools.time(block, { provider: "cpu", threads }, each);
  const date = new Date().toISOString();
  const all: Cached = {
    ...(await readCached()),
    [keyOf(block, tools)]: { limits: [...limits], date, rows: [...rows] },
  };
  const text = JSON.stringify(all, (_, value) => (value === Number.POSITIVE_INFINITY ? "all" : value), 2);
  const written = await writeFileAtomic(layoutsFile(), `${text}\n`).then(
    () => `, kept in ${layoutsFile()}`,
    () => "",
  );
  return { limits, source: "timed", reason: `timed just now${written}` };
};

/**
 * The choice for a training: where the processor is not known it is timed once, which `say` tells. Not in CI, whose runs are short
 * and whose machines are new each time.
 */
export const trainingLayouts = async (
  block: number,
  threads: number,
  say: (message: string) => void,
  tools: LayoutTools = ownTools,
): Promise<LayoutChoice> => {
  const known = await knownLayouts(block, tools);
  if (known.source !== "usual" || (process.env.CI ?? "") !== "") return known;
  say("timing this processor once (at most 20 s), so that this and later trainings run at its best");
  return timedLayouts(block, threads, undefined, tools);
};
