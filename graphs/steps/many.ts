/** Several steps in one run: for engines where parameters would cross a bus between runs. */
import { bind } from "../deploy/rewrite.ts";
import { Store } from "../nn/scope.ts";
import { constant, filled, type Value } from "../onnx/graph.ts";
import { add, gather, loop, mul, oneHot, reshape } from "../ops/index.ts";
import { kindOf, nextName, paramName, stateName } from "./names.ts";
import type { Step } from "./step.ts";

/**
 * A program that does `count` steps, one after the other, in a Loop. Its inputs are those of `count` steps stacked along a
 * new first axis, its parameters and states the step's own, its metrics [count]. Other outputs of the step are left out.
 */
export const manySteps = (step: Step, count: number): Step => {
  const store = new Store();
  const bound = new Map<Value, Value>();
  for (const { path, type, init, value } of step.store.parameters.values())
    bound.set(value, store.parameter(path, type.shape, init));
  for (const { path, type, init, value } of step.store.states.values()) bound.set(value, store.state(path, type, init));
  const stacked = [...step.store.inputs].map(
    ([name, value]) => [value, store.input(name, { dtype: value.dtype, shape: [count, ...value.shape] })] as const,
  );
  const slots = new Map<string, Value>();
  for (const { path, value } of step.store.parameters.values()) slots.set(nextName(paramName(path)), value);
  for (const { path, value } of step.store.states.values()) slots.set(nextName(stateName(path)), value);
  const moved = Object.keys(step.outputs).filter((name) => slots.has(name));
  const metrics = Object.keys(step.outputs).filter((name) => kindOf(name) === "metric");
  const initial = [
    ...moved.map((name) => bound.get(slots.get(name) as Value) as Value),
    ...metrics.map(() => constant(filled("float32", [count], 0))),
  ];
  const results = loop(count, initial, (iteration, carried) => {
    const here = new Map(bound);
    moved.forEach((name, i) => {
      here.set(slots.get(name) as Value, carried[i]!);
    });
    for (const [value, all] of stacked) here.set(value, reshape(gather(all, iteration), value.shape));
    const outputs = bind(Object.fromEntries([...moved, ...metrics].map((name) => [name, step.outputs[name]!])), here);
    const place = reshape(oneHot(reshape(iteration, [1]), count), [count]);
    return [
      ...moved.map((name) => outputs[name]!),
      ...metrics.map((name, i) => add(carried[moved.length + i]!, mul(place, outputs[name]!))),
    ];
  });
  return { store, outputs: Object.fromEntries([...moved, ...metrics].map((name, i) => [name, results[i]!])) };
};
