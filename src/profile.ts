/** Where the time of a run goes, by the op of the source graph: what onnxruntime's profile says of lowered nodes, added up. */
import { readdir, readFile, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Model } from "../graphs/onnx/write.ts";

export interface Share {
  /** An op of the source graph: Conv, convGradWeight, batchNormTraining, or a group of small ones. */
  readonly op: string;
  readonly seconds: number;
  /** Of the time in all nodes, 0 to 1. */
  readonly share: number;
}

interface Event {
  readonly cat: string;
  readonly name: string;
  readonly dur: number;
  readonly args?: { readonly op_name?: string };
}

const KERNEL = "_kernel_time";

/** Groups for ops whose own shares say little. */
const groups: Readonly<Record<string, string>> = Object.fromEntries(
  ["Add", "Sub", "Mul", "Div", "Neg", "Min", "Max", "Clip", "Sign", "Relu", "reluGrad", "Sum", "Sqrt", "Identity"].map(
    (op) => [op, "elementwise"],
  ),
);

/** The op that a node of a model is there for; the optimizer's and the attack's own elementwise ops are one group each. */
const sourceOf = (model: Model, name: string, fallback: string): string => {
  const node = model.nodes.get(name);
  const op = (node?.source ?? node)?.definition.name ?? fallback;
  return groups[op] ?? op;
};

/** Sums a profile by source op, largest first. */
export const sharesOf = (events: readonly Event[], model: Model): Share[] => {
  const seconds = new Map<string, number>();
  let total = 0;
  for (const { cat, name, dur, args } of events) {
    // A Loop's time is that of its body's nodes, which are there themselves.
    if (cat !== "Node" || !name.endsWith(KERNEL) || args?.op_name === "Loop") continue;
    const op = sourceOf(model, name.slice(0, -KERNEL.length), args?.op_name ?? "");
    seconds.set(op, (seconds.get(op) ?? 0) + dur / 1e6);
    total += dur / 1e6;
  }
  return Array.from(seconds, ([op, s]) => ({ op, seconds: s, share: s / total })).sort((a, b) => b.seconds - a.seconds);
};

/** Reads and removes the profile that a session with this prefix left. */
export const readProfile = async (prefix: string, model: Model): Promise<Share[]> => {
  const folder = dirname(prefix);
  const file = (await readdir(folder)).find((name) => name.startsWith(basename(prefix)) && name.endsWith(".json"));
  if (file === undefined) throw new Error(`internal: no profile lies at ${prefix}`);
  const path = join(folder, file);
  const events = JSON.parse(await readFile(path, "utf8")) as Event[];
  await rm(path);
  return sharesOf(events, model);
};
