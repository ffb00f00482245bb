/** Where the time of a run goes and where its nodes run: what onnxruntime's profile says of lowered nodes, added up. */
import { readdir, readFile, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Node, Value } from "../../graphs/onnx/graph.ts";
import type { Model } from "../../graphs/onnx/write.ts";
import { conv, convGradInput, convGradWeight, definitionOf, gemm, matMul } from "../../graphs/ops/index.ts";

export interface Share {
  /** An op of the source graph: Conv, convGradWeight, batchNormTraining, or a group of small ones. */
  readonly op: string;
  readonly seconds: number;
  /** Of the time in all nodes, 0 to 1. */
  readonly share: number;
  /** Of convolutions and matrix products: direct sums' operations a second, whatever the lowering spends; else undefined. */
  readonly gflops: number | undefined;
}

export interface Profile {
  /** By op of the source graph. */
  readonly shares: readonly Share[];
  /** Part of the time of each op that ran, 0 to 1. */
  readonly ran: Readonly<Record<string, number>>;
  /** Part of the time in convolutions and matrix products, 0 to 1. */
  readonly products: number;
  /** Nodes that ran on the CPU provider, by op: of a GPU's step, those that its provider has no kernel for. */
  readonly onCpu: Readonly<Record<string, number>>;
}

interface Event {
  readonly cat: string;
  readonly name: string;
  /** Start, microseconds. */
  readonly ts: number;
  readonly dur: number;
  readonly args?: { readonly op_name?: string; readonly provider?: string };
}

/** Ops whose kernels are convolutions or matrix products, as onnxruntime spells and fuses them, and this project's own. */
const products =
  /^(Fused|NhwcFused|Nhwc)?(Conv|ConvTranspose|MatMul|Gemm)$|^TransposeMatMul$|^bfloat16(Conv|GradInput|GradWeight)\./;

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

/** Multiplications and additions of the direct sum behind a convolution, its gradients or a matrix product; else 0. */
const operationsOf = ({ definition, inputs, outputs, attributes }: Node): number => {
  const [a, b] = inputs as readonly [Value, Value];
  const y = outputs[0]!;
  const filter = ([, channels = 0, kh = 0, kw = 0]: readonly number[]) => 2 * channels * kh * kw;
  if (definition === conv.definition) return y.size * filter(b.shape);
  if (definition === convGradInput.definition) return a.size * filter(b.shape);
  if (definition === convGradWeight.definition) return b.size * filter(y.shape);
  if (definition === matMul.definition) return 2 * y.size * a.dim(-1);
  if (definition === gemm.definition) return 2 * y.size * a.dim(attributes.transA === 1 ? 0 : 1);
  return 0;
};

/** Sums a profile by source op, largest first. */
export const sharesOf = (events: readonly Event[], model: Model): Share[] => {
  const seconds = new Map<string, number>();
  const runs = new Map<string, number>();
  let total = 0;
  for (const { cat, name, dur, args } of events) {
    // A Loop's time is that of its body's nodes, which are there themselves.
    if (cat !== "Node" || !name.endsWith(KERNEL) || args?.op_name === "Loop") continue;
    const lowered = name.slice(0, -KERNEL.length);
    const op = sourceOf(model, lowered, args?.op_name ?? "");
    seconds.set(op, (seconds.get(op) ?? 0) + dur / 1e6);
    runs.set(lowered, (runs.get(lowered) ?? 0) + 1);
    total += dur / 1e6;
  }
  // A source node ran as often as any of the nodes that it became.
  const times = new Map<Node, number>();
  for (const [name, count] of runs) {
    const node = model.nodes.get(name);
    const source = node?.source ?? node;
    if (source !== undefined) times.set(source, Math.max(times.get(source) ?? 0, count));
  }
  const operations = new Map<string, number>();
  for (const [source, count] of times) {
    const op = definitionOf(source).name;
    operations.set(op, (operations.get(op) ?? 0) + count * operationsOf(source));
  }
  return Array.from(seconds, ([op, s]) => {
    const done = operations.get(op) ?? 0;
    return { op, seconds: s, share: s / total, gflops: done > 0 ? done / s / 1e9 : undefined };
  }).sort((x, y) => y.seconds - x.seconds);
};

/** Adds up the events of a profile. */
export const profileOf = (events: readonly Event[], model: Model): Profile => {
  const nodes = events.filter(
    ({ cat, name, args }) => cat === "Node" && name.endsWith(KERNEL) && args?.op_name !== "Loop",
  );
  const total = nodes.reduce((sum, { dur }) => sum + dur, 0);
  const ran: Record<string, number> = {};
  const onCpu: Record<string, number> = {};
  for (const { dur, args } of nodes) {
    const op = args?.op_name ?? "";
    ran[op] = (ran[op] ?? 0) + dur / total;
    if (args?.provider === "CPUExecutionProvider") onCpu[op] = (onCpu[op] ?? 0) + 1;
  }
  const share = Object.entries(ran).reduce((sum, [op, part]) => sum + (products.test(op) ? part : 0), 0);
  return { shares: sharesOf(events, model), ran, products: share, onCpu };
};

/** What happened in the last run: the first one also fetches memory from the system. */
const ofLastRun = (events: readonly Event[]): Event[] => {
  const start = events.reduce((last, { name, ts }) => (name === "model_run" ? Math.max(last, ts) : last), 0);
  return events.filter(({ ts }) => ts >= start);
};

/** Reads and removes the profile that a session with this prefix left: of its last run. */
export const readProfile = async (prefix: string, model: Model): Promise<Profile> => {
  const folder = dirname(prefix);
  const file = (await readdir(folder)).find((name) => name.startsWith(basename(prefix)) && name.endsWith(".json"));
  if (file === undefined) throw new Error(`internal: no profile lies at ${prefix}`);
  const path = join(folder, file);
  const events = JSON.parse(await readFile(path, "utf8")) as Event[];
  await rm(path);
  return profileOf(ofLastRun(events), model);
};
