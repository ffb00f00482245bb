/** Training of a classifier: finetuning of a pretrained encoder, or adversarial training from the start. */
import { type AttackOptions, linfPgd, pgd } from "../attacks/pgd.ts";
import { crossEntropy } from "../losses/cross-entropy.ts";
import { klDivergence, trades } from "../losses/trades.ts";
import { type ClassifierOptions, head } from "../nn/classifier.ts";
import { encoder as encoderOf } from "../nn/encoder.ts";
import { FrozenStore } from "../nn/frozen.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import { Scope, Store } from "../nn/scope.ts";
import type { Value } from "../onnx/graph.ts";
import type { Tensor } from "../onnx/tensor.ts";
import { add, identity, type Ranks, reduceMean } from "../ops/index.ts";
import { type SgdOptions, sgd } from "../optim/sgd.ts";
import { accuracy } from "./accuracy.ts";
import type { ImageLoss } from "./evaluate.ts";
import { metrics } from "./names.ts";
import { type Step, update } from "./step.ts";

/**
 * What a classifier learns from: `clean` cross-entropy on the images, `pgd` cross-entropy on attacked images (Madry et
 * al., ICLR 2018), `trades` cross-entropy on the images and closeness of the attacked ones (Zhang et al., ICML 2019).
 */
export type Objective = "clean" | "pgd" | "trades";

/** Which classifier, and for which batches. */
export interface ClassifierBatch extends ClassifierOptions {
  readonly batch: number;
  readonly size: number;
  /** The batch-norm branch that every view takes. */
  readonly branch: string;
}

export interface FinetuneOptions extends ClassifierBatch, AttackOptions, SgdOptions {
  readonly objective: Objective;
  /** Weight of the closeness in TRADES. */
  readonly beta: number;
  /** What is learnt, and in `pgd` attacked, in place of cross-entropy. */
  readonly loss?: ImageLoss | undefined;
  /**
   * Parameters and statistics of an encoder that stays as it is, by path: constants of the program. The encoder is then in
   * evaluation mode and only the head is trained. Left out, everything is trained, in training mode.
   */
  readonly encoder?: ReadonlyMap<string, Tensor> | undefined;
  /** Processes that share the batch, of which `batch` is then this one's part. */
  readonly ranks?: Ranks | undefined;
  /** Also give `attack.x`, for comparisons. */
  readonly trace?: boolean;
}

/** Images, labels and attack starts of a batch. */
const inputsOf = (store: Store, { batch, size }: ClassifierBatch) => {
  const image = { dtype: "float32", shape: [batch, 3, size, size] } as const;
  return {
    clean: store.input("clean", image),
    label: store.input("label", { dtype: "int32", shape: [batch] }),
    start: () => store.input("start", image),
  };
};

/** Logits of images in a mode of batch norm, by branches; an encoder that is given stands in the program as constants. */
const modelOf = (
  store: Store,
  { classes, ...options }: ClassifierBatch,
  encoder: ReadonlyMap<string, Tensor> | undefined,
) => {
  const [features, logits] = [encoderOf(options), head(classes)];
  const frozen = encoder && new FrozenStore((path) => encoder.get(path));
  return (mode: "train" | "eval", branches: readonly string[], x: Value): Value => {
    const scope = new Scope(store, { mode, branches });
    return logits(scope, features(frozen ? new Scope(frozen, { mode: "eval", branches }) : scope, x));
  };
};

/**
 * Builds the step. Its accuracies are those of its batch, before the update. Inputs: `clean`, `label` [B], `lr`, and where there is an attack `start`, the noise that it begins with.
 * The attack sees the classifier in evaluation mode. In training mode TRADES moves the running statistics by the clean
 * images, then by the attacked ones, as two passes would.
 */
export const finetuneStep = (options: FinetuneOptions): Step => {
  const { objective, branch, beta, encoder, ranks, loss } = options;
  const store = new Store(ranks);
  const model = modelOf(store, options, encoder);
  const { clean, label, start } = inputsOf(store, options);
  const judged = (x: Value) => model("eval", [branch], x);
  const attacked = (loss: (x: Value) => Value): Value => pgd(linfPgd(options), loss)(clean, add(clean, start()));
  const learned = (logits: Value, labels: Value) =>
    loss === undefined ? crossEntropy(logits, labels) : reduceMean(loss(logits, labels), { keepdims: 0 });
  const each: ImageLoss = loss ?? ((logits, labels) => crossEntropy(logits, labels, "none"));
  let x = clean;
  let measured: Record<string, Value> & { readonly loss: Value };
  if (objective === "trades") {
    const natural = judged(clean);
    x = attacked((at) => klDivergence(natural, judged(at), "none"));
    const both = model("train", [branch, branch], interleave([clean, x]));
    const [plain, robust] = [viewOf(both, 0, 2), viewOf(both, 1, 2)];
    measured = {
      ...trades(plain, robust, label, beta, learned),
      trainAccuracy: accuracy(plain, label),
      trainRobustAccuracy: accuracy(robust, label),
    };
  } else {
    if (objective === "pgd") x = attacked((at) => each(judged(at), label));
    const logits = model("train", [branch], x);
    const name = objective === "pgd" ? "trainRobustAccuracy" : "trainAccuracy";
    measured = { loss: learned(logits, label), [name]: accuracy(logits, label) };
  }
  const { outputs, gradients } = update(store, measured.loss, sgd(options));
  const traced = options.trace && { "attack.x": identity(x) };
  return { store, outputs: { ...outputs, ...metrics(measured), ...traced }, gradients };
};

/**
 * Logits of `input.clean` in evaluation mode and, with attack steps, those of its images under PGD from `input.start`, and
 * the images themselves.
 */
export const classifierStep = (
  options: ClassifierBatch & AttackOptions & { readonly encoder?: ReadonlyMap<string, Tensor> | undefined },
): Step => {
  const { branch, attackSteps, encoder } = options;
  const store = new Store();
  const model = modelOf(store, options, encoder);
  const { clean, label, start } = inputsOf(store, options);
  const judged = (x: Value) => model("eval", [branch], x);
  if (attackSteps === 0) return { store, outputs: { logits: judged(clean) } };
  const attack = pgd(linfPgd(options), (at) => crossEntropy(judged(at), label, "none"));
  const x = attack(clean, add(clean, start()));
  return { store, outputs: { logits: judged(clean), attacked: identity(x), robustLogits: judged(x) } };
};
