/** Moving averages of a network, as a copy of it in the state (nn/scope.ts says how a copy is read). */
import type { Init, Store } from "../nn/scope.ts";
import { named, type Value } from "../onnx/graph.ts";
import { add, mul, sub } from "../ops/index.ts";

/** The copy that stands for a network where it has one: what is evaluated and exported. */
export const AVERAGE = "ema";

export interface MovingAverage {
  /** Name of the copy. */
  readonly copy: string;
  /** How much of the average stays at each step: a number, or a scalar of the step. */
  readonly decay: number | Value;
  /** Only what the copy has been built with; otherwise every parameter and running statistic gets an average. */
  readonly existing?: boolean;
}

/**
 * Moves an average behind the parameters as they are after the step (`next` by path): a ← decay·a + (1-decay)·w. Running
 * statistics likewise, unless the copy moved its own by running in training mode.
 */
export const moveAverage = (
  store: Store,
  next: (path: string) => Value,
  { copy, decay, existing = false }: MovingAverage,
): void => {
  const follow = (path: string, now: Value, like: { type: Value; init: Init }): void => {
    const at = `${copy}.${path}`;
    if (existing && !store.states.has(at)) return;
    const average = store.state(at, like.type, { kind: "copy", path, of: like.init });
    if (store.latest(at) !== store.states.get(at)?.value) return;
    store.update(
      at,
      named(`${copy}/${path}`, () => add(mul(average, decay), sub(now, mul(now, decay)))),
    );
  };
  for (const { path, value, init } of [...store.parameters.values()]) follow(path, next(path), { type: value, init });
  for (const { path, value, init } of [...store.states.values()])
    if (/(^|\.)running_(mean|var)$/.test(path) && !isOfCopy(store, path))
      follow(path, store.latest(path), { type: value, init });
};

/** Whether a state belongs to some copy: its path without the first part is that of the network's own state. */
const isOfCopy = (store: Store, path: string): boolean => store.states.has(path.slice(path.indexOf(".") + 1));
