/**
 * A data-parallel step: its gradients are averaged over ranks before the update, by the driver between two programs or by a message
 * inside of one.
 */
import { bind } from "../deploy/rewrite.ts";
import { Store } from "../nn/scope.ts";
import { GraphError } from "../onnx/error.ts";
import { absent, isInput, type Value } from "../onnx/graph.ts";
import { visibleNodesOf } from "../onnx/order.ts";
import { allReduceSum, concat, div, reshape, split } from "../ops/index.ts";
import { fedBackTo, gradName, kindOf } from "./names.ts";
import type { Step } from "./step.ts";

export interface SplitStep {
  /** From a batch to `grad.*`, `metric.*` and the `next.state.*` that the passes move (running statistics). */
  readonly gradients: Step;
  /** From `input.grad.*` and `input.lr` to `next.param.*` and the `next.state.*` of the optimizer and of averages. */
  readonly update: Step;
}

/**
 * Splits a training step at its gradients. Fed with the gradients of the first program, the second gives what the whole
 * step gives; fed with their mean over several machines, each with its part of the batch, it is one data-parallel step.
 * Batch norm then sees a machine's part, as in PyTorch's DistributedDataParallel without SyncBatchNorm.
 */
export const splitStep = (step: Step): SplitStep => {
  const { gradients, early, late } = partsOf(step);
  const named = Object.fromEntries(Array.from(gradients, ([path, value]) => [gradName(path), value]));
  return {
    gradients: program(step, { ...named, ...early }, new Map()),
    update: program(step, late, gradients),
  };
};

/** Gradients of a step, its outputs that do not depend on them, and those that do. */
const partsOf = (step: Step) => {
  const { gradients } = step;
  if (gradients === undefined) throw new GraphError("parameter", "only a training step can be split at its gradients");
  const names = Object.keys(step.outputs).filter((name) => fedBackTo(name) !== undefined || kindOf(name) === "metric");
  const after = dependents(
    names.map((name) => step.outputs[name]!),
    new Set(gradients.values()),
  );
  const pick = (wanted: readonly string[]) => Object.fromEntries(wanted.map((name) => [name, step.outputs[name]!]));
  return {
    gradients,
    early: pick(names.filter((name) => !after.has(step.outputs[name]!))),
    late: pick(names.filter((name) => after.has(step.outputs[name]!))),
  };
};

/** Input and output of an averaged step: numbers that ranks tell each other, and their sums. */
export const TOLD = "told";

/**
 * The same in one program: gradients, metrics and running statistics become their means over ranks in one message, and the update
 * follows in the same run, so that weights stay where the engine has them. Another input `told` [`told`] is summed along.
 */
export const averagedStep = (step: Step, ranks: number, told: number): Step => {
  const { gradients, early, late } = partsOf(step);
  const values = [...new Set([...gradients.values(), ...Object.values(early)])];
  for (const value of values)
    if (value.dtype !== "float32")
      throw new GraphError("dtype", "only float32 is averaged over ranks", { path: value.node.path, types: [value] });
  const store = new Store();
  const words = store.input(TOLD, { dtype: "float32", shape: [told] });
  const flat = [...values.map((value) => reshape(value, [-1])), words];
  const count = values.reduce((sum, { size }) => sum + size, 0);
  const all = concat(flat, { axis: 0 });
  const [sums, answer] = split(reshape(allReduceSum(all, absent), all.shape), { axis: 0, sizes: [count, told] });
  const means = split(div(sums!, ranks), { axis: 0, sizes: values.map(({ size }) => size) });
  const averaged = new Map(values.map((value, i) => [value, reshape(means[i]!, value.shape)]));
  const of = (outputs: Readonly<Record<string, Value>>) =>
    Object.fromEntries(Object.entries(outputs).map(([name, value]) => [name, averaged.get(value) as Value]));
  const updated = bind(late, new Map([...gradients.values()].map((value) => [value, averaged.get(value) as Value])));
  return program(step, { ...of(early), ...updated, [TOLD]: answer as Value }, new Map(), store);
};

/** What computes `outputs` from the step's inputs and from `given`, which becomes inputs of its own. */
const program = (
  { store: whole }: Step,
  outputs: Readonly<Record<string, Value>>,
  given: ReadonlyMap<string, Value>,
  store = new Store(),
): Step => {
  const replaced = Array.from(given, ([path, value]) => [value, store.input(gradName(path), value)] as const);
  const bound = bind(outputs, new Map(replaced));
  const used = new Set(visibleNodesOf(Object.values(bound)).flatMap((node) => node.outputs.filter(isInput)));
  const again = new Map<Value, Value>();
  for (const { path, type, init, value } of whole.parameters.values())
    if (used.has(value)) again.set(value, store.parameter(path, type.shape, init));
  for (const { path, type, init, value } of whole.states.values())
    if (used.has(value)) again.set(value, store.state(path, type, init));
  for (const [name, value] of whole.inputs) if (used.has(value)) again.set(value, store.input(name, value));
  return { store, outputs: bind(bound, again) };
};

/** All values that need one of `sources`. */
const dependents = (outputs: readonly Value[], sources: ReadonlySet<Value>): ReadonlySet<Value> => {
  const found = new Set<Value>(sources);
  for (const node of visibleNodesOf(outputs))
    if (node.inputs.some((value) => found.has(value))) for (const value of node.outputs) found.add(value);
  return found;
};
