/** A step in two programs, gradients and update: what data-parallel training sums between the two. */
import { bind } from "../deploy/rewrite.ts";
import { Store } from "../nn/scope.ts";
import { GraphError } from "../onnx/error.ts";
import { isInput, type Value } from "../onnx/graph.ts";
import { visibleNodesOf } from "../onnx/order.ts";
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
  const { gradients } = step;
  if (gradients === undefined) throw new GraphError("parameter", "only a training step can be split at its gradients");
  const names = Object.keys(step.outputs).filter((name) => fedBackTo(name) !== undefined || kindOf(name) === "metric");
  const after = dependents(
    names.map((name) => step.outputs[name]!),
    new Set(gradients.values()),
  );
  const late = names.filter((name) => after.has(step.outputs[name]!));
  const early = names.filter((name) => !late.includes(name));
  const pick = (wanted: readonly string[]) => Object.fromEntries(wanted.map((name) => [name, step.outputs[name]!]));
  const named = Object.fromEntries(Array.from(gradients, ([path, value]) => [gradName(path), value]));
  return {
    gradients: program(step, { ...named, ...pick(early) }, new Map()),
    update: program(step, pick(late), gradients),
  };
};

/** What computes `outputs` from the step's inputs and from `given`, which becomes inputs of its own. */
const program = (
  { store: whole }: Step,
  outputs: Readonly<Record<string, Value>>,
  given: ReadonlyMap<string, Value>,
): Step => {
  const store = new Store();
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
