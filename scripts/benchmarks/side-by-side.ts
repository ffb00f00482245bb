/**
 * Two or more programs that do the same work, measured side by side: each in a process of its own, one turn of each in every round,
 * medians, and ratios to the first. What slows the machine down slows all of them.
 */
import { spawn } from "node:child_process";
import { loadavg } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { peakMemory } from "../../src/bench/measure.ts";
import { coreLatency } from "../../src/engine/core-latency.ts";
import { processor } from "../../src/engine/devices.ts";
import { median } from "../../src/engine/median.ts";
import { RunError } from "../../src/errors.ts";
import { packageRoot } from "../../src/version.ts";

/** Figures of one turn. */
export interface Turn {
  /** Seconds of the clock. */
  readonly wall: number;
  /** Seconds of the processor, which other programs on the machine disturb less, where they are known. */
  readonly cpu?: number;
  /** Largest resident memory so far, GB, where it is known. */
  readonly peak?: number;
  /** Nanoseconds from one core to another before the round (core-latency.ts), where there are several. */
  readonly apart?: number;
}

/** One of the programs that are compared. */
export interface Contender<T extends Turn = Turn> {
  readonly name: string;
  /** What it says when it is ready to be measured. */
  readonly ready: () => Promise<string>;
  readonly turn: () => Promise<T>;
  readonly end: () => void;
}

/** Flags that every comparison with PyTorch takes. */
export const comparisonFlags = {
  worker: { type: "boolean", default: false },
  python: { type: "string", default: "python3" },
  reference: { type: "string", default: join(packageRoot, "scripts", "reference", "advcl_torch.py") },
  rounds: { type: "string", default: "5" },
  threads: { type: "string", default: "2" },
} as const;

/** Flags of a comparison of one shape, whose batch and attack have usual values. */
export const shapeFlags = <const Batch extends string, const Steps extends string>(batch: Batch, attackSteps: Steps) =>
  ({
    ...comparisonFlags,
    batch: { type: "string", default: batch },
    width: { type: "string", default: "64" },
    "attack-steps": { type: "string", default: attackSteps },
    target: { type: "string" },
  }) as const;

/** The numbers of those flags: what both halves are told of the shape. */
export const shapeOf = (values: Readonly<Record<"batch" | "width" | "threads" | "attack-steps", string>>) => ({
  batch: Number(values.batch),
  width: Number(values.width),
  threads: Number(values.threads),
  "attack-steps": Number(values["attack-steps"]),
});

const asFlags = (settings: Readonly<Record<string, string | number | undefined>>): string[] =>
  Object.entries(settings).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}`, `${value}`]));

/** A program that takes a turn for each line that it reads, and answers with one line of JSON; first it says that it is ready. */
const worker = (name: string, command: string, args: readonly string[]): Contender => {
  const child = spawn(command, [...args], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ended = new Promise<string>((resolve) => {
    child.once("error", ({ message }) => resolve(message));
    child.once("close", (code, signal) => resolve(signal ?? `exit code ${code}`));
  });
  // A worker that has ended tells so by the end of its output.
  child.stdin.on("error", () => undefined);
  const answer = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (done) throw new RunError(`the worker ${name} ended: ${await ended}`);
    return value;
  };
  return {
    name,
    ready: answer,
    turn: async () => {
      child.stdin.write("go\n");
      return JSON.parse(await answer()) as Turn;
    },
    end: () => {
      child.stdin.end();
    },
  };
};

/** This project's half: the script that compares, called again with --worker. */
export const ourWorker = (
  script: string,
  settings: Readonly<Record<string, string | number | undefined>>,
  name = "ours",
): Contender => worker(name, process.execPath, [fileURLToPath(script), ...asFlags(settings), "--worker"]);

/** PyTorch's half: scripts/benchmarks/side_by_side.py, which lies with the sources. */
export const torchWorker = (
  name: string,
  python: string,
  what: "pretrain" | "finetune" | "pgd",
  settings: Readonly<Record<string, string | number>>,
): Contender =>
  worker(name, python, [join(packageRoot, "scripts", "benchmarks", "side_by_side.py"), what, ...asFlags(settings)]);

/** The other end of a worker: says that it is ready, and takes a turn for each line on stdin. */
export const serveTurns = async (ready: object, turn: () => Promise<void>): Promise<void> => {
  console.log(JSON.stringify(ready));
  for await (const _ of createInterface({ input: process.stdin })) {
    const [start, before] = [performance.now(), process.cpuUsage()];
    await turn();
    const wall = (performance.now() - start) / 1e3;
    const { user, system } = process.cpuUsage(before);
    const figures: Turn = { wall, cpu: (user + system) / 1e6, peak: (await peakMemory()) / 1e9 };
    console.log(JSON.stringify(figures));
  }
};

/**
 * Turns of each contender, by name.
 * @param options.warmUp a round before the first, which does not count
 */
export const takeTurns = async <T extends Turn>(
  contenders: readonly Contender<T>[],
  { rounds, warmUp = true }: { readonly rounds: number; readonly warmUp?: boolean },
): Promise<ReadonlyMap<string, readonly T[]>> => {
  const turns = new Map<string, T[]>(contenders.map(({ name }) => [name, []]));
  try {
    for (const { name, ready } of contenders) console.error(`${name}: ready ${await ready()}`.trim());
    for (let round = warmUp ? 0 : 1; round <= rounds; round++) {
      const apart = await coreLatency();
      if (apart !== undefined) console.error(`round ${round}: ${apart.toFixed(0)} ns from one core to another`);
      for (const { name, turn } of contenders) {
        const figures = { ...(await turn()), ...(apart !== undefined && { apart }) };
        const cpu = figures.cpu === undefined ? "" : `, cpu ${figures.cpu.toFixed(2)} s`;
        console.error(`round ${round}: ${name} ${figures.wall.toFixed(2)} s${cpu}`);
        if (round > 0) turns.get(name)?.push(figures);
      }
    }
  } finally {
    for (const { end } of contenders) end();
  }
  return turns;
};

/** What the turns of one contender come to. */
export interface Summary extends Turn {
  readonly name: string;
  /** Smallest seconds of the clock. */
  readonly fastest: number;
  /** Its seconds over those of the first contender, by the clock and by the processor. */
  readonly ratio: number;
  readonly cpuRatio?: number;
}

/** The figures of a kind that are known. */
const known = (turns: readonly Turn[], figure: keyof Turn): number[] =>
  turns.flatMap((turn) => (turn[figure] === undefined ? [] : [turn[figure]]));

/** Medians of seconds, largest peak, and ratios to the first contender. */
export const summarize = (turns: ReadonlyMap<string, readonly Turn[]>): readonly Summary[] => {
  const rows = [...turns].map(([name, measured]) => {
    const [wall, cpu, peak] = [known(measured, "wall"), known(measured, "cpu"), known(measured, "peak")];
    const apart = known(measured, "apart");
    return {
      name,
      wall: median(wall),
      fastest: Math.min(...wall),
      ...(cpu.length > 0 && { cpu: median(cpu) }),
      ...(peak.length > 0 && { peak: Math.max(...peak) }),
      ...(apart.length > 0 && { apart: median(apart) }),
    };
  });
  const [first] = rows;
  if (first === undefined) return [];
  return rows.map((row) => ({
    ...row,
    ratio: row.wall / first.wall,
    ...(row.cpu !== undefined && first.cpu !== undefined && { cpuRatio: row.cpu / first.cpu }),
  }));
};

/** A line for each contender, and one of how far apart the cores were. */
export const describe = (rows: readonly Summary[]): string => {
  const apart = rows[0]?.apart;
  const lines = rows.map(({ name, wall, fastest, cpu, peak, ratio, cpuRatio }) => {
    const seconds = `${name.padEnd(16)} ${wall.toFixed(2)} s (fastest ${fastest.toFixed(2)})`;
    const others = `${cpu === undefined ? "" : `, cpu ${cpu.toFixed(2)} s`}${peak === undefined ? "" : `, peak ${peak.toFixed(2)} GB`}`;
    const ratios = `over ours ${ratio.toFixed(2)}${cpuRatio === undefined ? "" : `, cpu ${cpuRatio.toFixed(2)}`}`;
    return `${seconds}${others}; ${ratios}`;
  });
  return [...lines, ...(apart === undefined ? [] : [`${apart.toFixed(0)} ns from one core to another, median`])].join(
    "\n",
  );
};

/** The processor by its name and instructions, the threads that a comparison uses of it, and what else ran on it just now. */
export const machine = (threads: number): string => {
  const { name, vectors } = processor();
  const [load = 0] = loadavg();
  // Windows knows no load.
  const busy = load < 0.5 ? "" : `, a load of ${load.toFixed(1)} before`;
  return `${name} (${vectors}), ${threads} threads${busy}`;
};
