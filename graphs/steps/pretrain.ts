/** One step of AdvCL pretraining: views, joint attack, loss, backward, update (Fan et al. 2021, algorithm 1). */

import { linf } from "../attacks/threat-model.ts";
import { grad } from "../autodiff/grad.ts";
import { type ContrastiveOptions, contrastive } from "../losses/contrastive.ts";
import { crossEntropy, type LossReduction } from "../losses/cross-entropy.ts";
import { clusterHeads, headName, projector, projectorHidden, projectorOutput } from "../nn/head.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import { type Depth, resnet, type Stem } from "../nn/resnet.ts";
import { type BatchStatistics, moveStatistics, moveStatisticsRepeatedly, Scope, Store } from "../nn/scope.ts";
import { named, type Type, type Value } from "../onnx/graph.ts";
import { add, concat, mul, reshape, stopGradient } from "../ops/index.ts";
import type { OptimizerOptions } from "../optim/optimizer.ts";
import { highFrequency } from "../views/high-frequency.ts";
import { finish, type Step } from "./step.ts";

/** Batch-norm branches of an AdvCL encoder, in the order of the authors' bn_list. */
export const advclBranches = ["normal", "pgd", "pgd_ce"] as const;

export interface PretrainOptions extends ContrastiveOptions, OptimizerOptions {
  readonly batch: number;
  readonly size: number;
  readonly depth: Depth;
  readonly width: number;
  readonly stem: Stem;
  /** Radius of the high-frequency view; 0 leaves the view out. */
  readonly radius: number;
  /** K of each clustering head; none leaves clustering out. */
  readonly clusters: readonly number[];
  readonly clusterWeight: number;
  /** Steps of the attack; 0 takes its random start as the adversarial image. */
  readonly attackSteps: number;
  /** Without the attack the contrastive view is the clean image. */
  readonly attack: boolean;
  readonly eps: number;
  readonly stepSize: number;
  /** Decay of a moving average of the weights, which is then what is evaluated; 0 (default) keeps none. */
  readonly ema?: number;
  /** Also give `attack.*` and `grad.*`, for comparisons. */
  readonly trace?: boolean;
}

/** The paper's settings of the loss, the attack and the optimizer, for what measures or compares a step. */
export const paperSettings = {
  radius: 8,
  clusterWeight: 0.2,
  attack: true,
  eps: 8 / 255,
  stepSize: 2 / 255,
  temperature: 0.5,
  baseTemperature: 0.07,
  momentum: 0.9,
  weightDecay: 1e-4,
} as const;

/**
 * Builds the step. Inputs: `clean`, `view1`, `view2`, `start_cl`, `start_ce` [B,3,S,S] and `label_K` int32 [B], `lr`.
 *
 * The clean views do not depend on the attack, so they go through the network once, and their running statistics are
 * moved as often as the authors' code passes them.
 */
export const pretrainStep = (options: PretrainOptions): Step => {
  const { batch, size, clusters, radius, attackSteps, attack, eps, stepSize, clusterWeight } = options;
  const store = new Store();
  const encoder = resnet({ ...options, branches: advclBranches });
  const image: Type = { dtype: "float32", shape: [batch, 3, size, size] };
  const clean = store.input("clean", image);
  const views = [store.input("view1", image), store.input("view2", image)];
  if (radius > 0) views.push(highFrequency(clean, radius));
  const labels = clusters.map((k) => store.input(`label_${headName(k).slice(3)}`, { dtype: "int32", shape: [batch] }));
  const clustering = labels.length > 0;
  const passes = attack ? attackSteps + 1 : 1;

  // Clean views, once; what they do to the statistics is kept for later.
  const inEncoder: BatchStatistics[] = [];
  const inProjector: BatchStatistics[] = [];
  const normal = new Scope(store, { branches: views.map(() => "normal") });
  const cleanFeatures = encoder(normal.with({ statistics: (s) => inEncoder.push(s) }), interleave(views));
  const cleanProjections = projector(
    normal.at("head_proj").with({ statistics: (s) => inProjector.push(s) }),
    cleanFeatures,
  );
  moveStatisticsRepeatedly(store, inEncoder, passes);

  // Adversarial views: the contrastive one, and with clusters the one of the clustering loss.
  const branches = clustering ? ["pgd", "pgd_ce"] : ["pgd"];
  const adversarial = new Scope(store, { branches });
  const losses = (x: Value, others: Value, reduction: LossReduction) => {
    const h = encoder(adversarial, x);
    const hidden = projectorHidden(adversarial.at("head_proj"), h);
    for (const statistics of inProjector) moveStatistics(store, statistics);
    const z = projectorOutput(adversarial.at("head_proj"), viewOf(hidden, 0, branches.length));
    const width = z.dim(1);
    const all = concat([reshape(z, [batch, 1, width]), reshape(others, [batch, views.length, width])], { axis: 1 });
    const together = contrastive(reshape(all, [batch * (views.length + 1), width]), views.length + 1, options);
    if (!clustering) return { loss: together, contrastive: together };
    const logits = clusterHeads(adversarial.with({ branches: ["pgd_ce"] }), clusters, viewOf(h, 1, 2));
    const clustered = named("clustering", () =>
      mul(
        logits.map((l, i) => crossEntropy(l, labels[i] as Value, reduction)).reduce((a, b) => add(a, b)),
        1 / clusters.length,
      ),
    );
    return { loss: add(together, mul(clustered, clusterWeight)), contrastive: together, clustering: clustered };
  };

  const threat = linf(eps);
  const cleanPair = interleave(branches.map(() => clean));
  const starts = branches.map((_, i) => store.input(i === 0 ? "start_cl" : "start_ce", image));
  const trace: Record<string, Value> = {};
  const traced = (name: string, pair: Value) => {
    if (!options.trace) return;
    trace[`attack.${name}_cl`] = viewOf(pair, 0, branches.length);
    if (clustering) trace[`attack.${name}_ce`] = viewOf(pair, 1, 2);
  };
  let x = cleanPair;
  if (attack) {
    const fixedOthers = stopGradient(cleanProjections);
    const climb = (at: Value): { next: Value; gradient: Value } => {
      const { loss } = losses(at, fixedOthers, "sum");
      const [gradient] = grad(loss, [at]) as [Value];
      return { next: threat.project(add(at, mul(threat.direction(gradient), stepSize)), cleanPair), gradient };
    };
    x = named("attack", () => add(cleanPair, interleave(starts)));
    let left = attackSteps;
    if (options.trace && left > 0) {
      const { next, gradient } = climb(x);
      traced("first_grad", gradient);
      traced("first_x", next);
      x = next;
      left -= 1;
    }
    [x] = store.loop(left, [x], (_, [at]) => [climb(at as Value).next]) as [Value];
    x = stopGradient(x);
  }
  traced("x", x);

  const { loss, ...metrics } = losses(x, cleanProjections, "mean");
  return finish(store, options, { loss, ...metrics }, trace);
};
