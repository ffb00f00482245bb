/** A step: one program that reads a batch and the parameters and returns the next parameters, as named values. */
import { maybeGrad } from "../autodiff/grad.ts";
import type { Slot, Store } from "../nn/scope.ts";
import { named, scalar, type Value } from "../onnx/graph.ts";
import { depthsOf, visibleNodesOf } from "../onnx/order.ts";
import { buildModel, type Model, type ModelOptions } from "../onnx/write.ts";
import { add, div, min, mul, reduceSum, sqrt } from "../ops/index.ts";
import { AVERAGE, type MovingAverage, moveAverage } from "../optim/ema.ts";
import { type OptimizerOptions, optimizerOf } from "../optim/optimizer.ts";
import type { Optimizer } from "../optim/sgd.ts";
import { lowerInOneOpset, type Target } from "../targets/lower.ts";
import { inOneOrder } from "../targets/ranks.ts";
import { gradName, metrics, nextName, paramName, stateName } from "./names.ts";

/** A program that reads a batch and the parameters and gives the next ones, under the names of names.ts; a driver knows no others. */
export interface Step {
  readonly store: Store;
  readonly outputs: Readonly<Record<string, Value>>;
  /** Of a training step: the gradient to each parameter that moves, by path. */
  readonly gradients?: ReadonlyMap<string, Value>;
}

/**
 * Minimises `loss` over every parameter of the store with an optimizer: the gradients, and what is next of
 * everything. Gradients whose norm, all together, is above `clip` (where it is given and not 0) are scaled down to it.
 */
export const update = (
  store: Store,
  loss: Value,
  optimizer: Optimizer,
  trainable: (path: string) => boolean = () => true,
  clip?: number,
): { readonly gradients: ReadonlyMap<string, Value>; readonly outputs: Record<string, Value> } => {
  const slots = [...store.parameters.values()].filter(({ path }) => trainable(path));
  const lr = store.input("lr", { dtype: "float32", shape: [] });
  // A parameter outside the loss keeps still, as in PyTorch, where its gradient is None.
  const found = maybeGrad(
    loss,
    slots.map((slot) => slot.value),
  ).flatMap((gradient, i) => (gradient === undefined ? [] : [{ slot: slots[i] as Slot, gradient }]));
  const outputs: Record<string, Value> = {};
  const scale = !clip
    ? undefined
    : clipScale(
        found.map(({ gradient }) => gradient),
        clip,
      );
  for (const { slot, gradient } of lastLayersLast(found)) {
    const clipped = scale === undefined ? gradient : mul(gradient, scale);
    outputs[nextName(paramName(slot.path))] = optimizer(store, slot, clipped, lr);
  }
  const gradients = new Map(found.map(({ slot, gradient }) => [slot.path, gradient]));
  return { gradients, outputs: { ...outputs, ...nextStates(store) } };
};

/** min(1, clip / ‖gradients‖), as torch.nn.utils.clip_grad_norm_ scales them. */
const clipScale = (gradients: readonly Value[], clip: number): Value =>
  named("clip", () => {
    const squares = gradients.map((g) => reduceSum(mul(g, g), { keepdims: 0 }));
    return min(div(scalar(clip), add(sqrt(squares.reduce((sum, square) => add(sum, square))), 1e-6)), scalar(1));
  });

/**
 * Gradients in the reverse of the order in which a backward pass reaches them. ONNX Runtime runs what the last outputs
 * need first (a depth-first search from the end): so each layer's weight gradients, in all of its passes and branches, are
 * computed before the pass goes on to the layer below, and what only they need is freed.
 */
const lastLayersLast = <T extends { readonly gradient: Value }>(found: readonly T[]): readonly T[] => {
  const depth = depthsOf(visibleNodesOf(found.map(({ gradient }) => gradient)));
  const depthOf = (gradient: Value): number => depth.get(gradient.node) ?? 0;
  return [...found].sort((a, b) => depthOf(b.gradient) - depthOf(a.gradient));
};

/** What is next of every state that a program moves. */
export const nextStates = (store: Store): Record<string, Value> =>
  Object.fromEntries(
    [...store.states.values()]
      .filter(({ path, value }) => store.latest(path) !== value)
      .map(({ path }) => [nextName(stateName(path)), store.latest(path)]),
  );

export interface FinishOptions extends OptimizerOptions {
  /** Decay of a moving average of the weights (`state.ema.…`); 0 or left out keeps none. */
  readonly ema?: number;
  /** Also give `grad.*` and what the step traced. */
  readonly trace?: boolean;
}

/**
 * The end of a training step: backward, optimizer, moving averages, figures. `averages` are those that the method itself
 * reads; they move with the step too.
 */
export const finish = (
  store: Store,
  options: FinishOptions,
  measured: { readonly loss: Value } & Readonly<Record<string, Value>>,
  trace: Readonly<Record<string, Value>> = {},
  averages: readonly MovingAverage[] = [],
): Step => {
  const { gradients, outputs } = update(store, measured.loss, optimizerOf(options));
  const all = options.ema ? [...averages, { copy: AVERAGE, decay: options.ema }] : averages;
  for (const average of all)
    moveAverage(
      store,
      (path) => outputs[nextName(paramName(path))] ?? (store.parameters.get(path) as Slot).value,
      average,
    );
  const traced = options.trace
    ? [...Object.entries(trace), ...[...gradients].map(([path, gradient]) => [gradName(path), gradient] as const)]
    : [];
  return {
    store,
    outputs: { ...outputs, ...nextStates(store), ...metrics(measured), ...Object.fromEntries(traced) },
    gradients,
  };
};

/** Lowers a step for a target and writes it as a model. */
export const compile = ({ outputs }: Pick<Step, "outputs">, target: Target, options: ModelOptions = {}): Model => {
  const lowered = lowerInOneOpset(outputs, target);
  return buildModel(inOneOrder(target.rewrite?.(lowered) ?? lowered), [], { kernels: target.kernels, ...options });
};
