/**
 * On-device training for onnxruntime-training-web: a training graph that holds the whole step, optimizer included, and an
 * evaluation graph.
 *
 * To that engine every parameter, momenta too, is frozen; the graph itself writes them in place, through
 * InPlaceAccumulatorV2 with its reset on, which copies. So the learning rate is an ordinary input (the engine's own is
 * fixed at 0.001) and all state can be read back. The writes wait for everything that reads what they overwrite: their
 * reset is computed from all results.
 */
import { crossEntropy } from "../losses/cross-entropy.ts";
import { apply, type Definition, input, type Value } from "../onnx/graph.ts";
import { concat, isNan, not, notDifferentiable, or, reduceSum, reshape, slice } from "../ops/index.ts";
import { type SgdOptions, sgd } from "../optim/sgd.ts";
import { pathOf } from "../steps/names.ts";
import { update } from "../steps/step.ts";
import { type DeployedOptions, deployed } from "./network.ts";
import { rewrite } from "./rewrite.ts";

export interface OnDeviceOptions extends Omit<DeployedOptions, "what" | "batch">, SgdOptions {
  readonly batch: number;
  /** The linear probe, or the encoder (its batch norms folded, as in evaluation mode) with the head. */
  readonly trains: "head" | "all";
}

export interface OnDevice {
  /** What the user feeds, in the order that the engine wants: `image`, `label`, `lr`. */
  readonly feeds: readonly Value[];
  /** Every tensor of the checkpoint as an input of both graphs, by name, in one order. */
  readonly parameters: ReadonlyMap<string, Value>;
  /** An input that the engine demands and that has no effect here. */
  readonly reset: Value;
  /** `loss` and `logits`. */
  readonly evaluation: Readonly<Record<string, Value>>;
  /** The same and `updated`, which is true once everything is written. */
  readonly training: Readonly<Record<string, Value>>;
  /** Names of the parameters that move. */
  readonly trained: readonly string[];
}

const accumulatorOp: Definition = Object.assign(
  {
    name: "InPlaceAccumulatorV2",
    domain: "com.microsoft",
    attributes: {},
    infer: () => [{ dtype: "bool" as const, shape: [1] }],
  },
  { minInputs: 3, gradcheck: [], vjp: notDifferentiable("it writes in place") },
);

/** Overwrites the buffer of an input with a value of its shape; gives a bool[1]. */
const overwrite = (buffer: Value, value: Value, reset: Value): Value =>
  apply(accumulatorOp, [buffer, value, reset], {})[0] as Value;

/** A bool[1] that is true whatever the values are, and known only once all of them are. */
const afterAll = (values: readonly Value[]): Value => {
  const firsts = values.map((value) => {
    const flat = reshape(value, [value.size]);
    return slice(flat, [{ axis: 0, start: 0, end: 1 }]);
  });
  const mark = isNan(reduceSum(concat(firsts, { axis: 0 }), { axes: [0], keepdims: 1 }));
  return or(mark, not(mark));
};

export const onDevice = (options: OnDeviceOptions): OnDevice => {
  const { store, image, outputs } = deployed({ ...options, what: "classifier" });
  const logits = outputs.logits as Value;
  const label = input("label", { dtype: "int64", shape: [options.batch] });
  const loss = reshape(crossEntropy(logits, label), [1]);
  const trains = (path: string): boolean => options.trains === "all" || path.startsWith("fc.");
  const { outputs: next } = update(store, loss, sgd(options), trains);
  const lr = store.input("lr", { dtype: "float32", shape: [] });
  const plainLr = input("lr", lr);
  const parameters = new Map<string, Value>();
  const renamed = new Map<Value, Value>([[lr, plainLr]]);
  for (const { path, type, value } of [...store.parameters.values(), ...store.states.values()]) {
    const made = input(path, type);
    parameters.set(path, made);
    renamed.set(value, made);
  }
  const leaf = (value: Value) => renamed.get(value);
  const results = rewrite({ ...next, loss, logits }, { leaf });
  const {
    loss: measured,
    logits: guessed,
    ...written
  } = results as Record<string, Value> & Record<"loss" | "logits", Value>;
  const evaluation = { loss: measured, logits: guessed };
  const reset = afterAll([...Object.values(written), measured, guessed]);
  const flags = Object.entries(written).map(([name, value]) =>
    overwrite(parameters.get(pathOf(name)) as Value, value, reset),
  );
  return {
    feeds: [image, label, plainLr],
    parameters,
    reset: input("lazy_reset_grad", { dtype: "bool", shape: [1] }),
    evaluation,
    training: { ...evaluation, updated: concat(flags, { axis: 0 }) },
    trained: [...store.parameters.keys()].filter(trains),
  };
};
