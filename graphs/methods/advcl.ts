import { type AttackOptions, linfPgd, type PgdHooks, pgdSteps } from "../attacks/pgd.ts";
import { type ContrastiveOptions, contrastive } from "../losses/contrastive.ts";
import { crossEntropy, type LossReduction } from "../losses/cross-entropy.ts";
import { clusterHeads, headName, projector, projectorHidden, projectorOutput } from "../nn/head.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import type { Layer } from "../nn/layer.ts";
import { type BatchStatistics, moveStatistics, moveStatisticsRepeatedly, Scope, type Store } from "../nn/scope.ts";
import { named, type Value } from "../onnx/graph.ts";
import { add, concat, mul, reshape, stopGradient } from "../ops/index.ts";
import { finish, type Step } from "../steps/step.ts";
import { highFrequency } from "../views/high-frequency.ts";
import { advclView, type InputRecipes, uniformStart, weakView } from "../views/recipe.ts";
import { advclTraining, defineMethod, paperAttack, type StepOptions, type StepParts, stepParts } from "./method.ts";

/** Batch-norm branches of an AdvCL encoder, in the order of the authors' bn_list. */
export const advclBranches = ["normal", "pgd", "pgd_ce"] as const;

/** Options that are AdvCL's own. */
export interface AdvclOptions extends AttackOptions, Pick<ContrastiveOptions, "temperature" | "baseTemperature"> {
  /** Radius of the high-frequency view, in pixels; 0 leaves the view out. */
  readonly radius: number;
  /** K of each clustering head; none leaves clustering out. */
  readonly clusters: readonly number[];
  readonly clusterWeight: number;
  /** Without the attack the contrastive view is the clean image. */
  readonly attack: boolean;
}

/** Name of the input of pseudo-labels of K clusters: `label_010`. */
const labelName = (k: number): string => `label_${headName(k).slice(3)}`;

/** What the step reads. */
const readInputs = ({ store, image }: StepParts, { batch, clusters, radius, attack }: StepOptions & AdvclOptions) => {
  const clean = image("clean");
  const views = [image("view1"), image("view2")];
  if (radius > 0) views.push(highFrequency(clean, radius));
  const labels = clusters.map((k) => store.input(labelName(k), { dtype: "int32", shape: [batch] }));
  // Of the adversarial views: the contrastive one, and with clusters the one of the clustering loss.
  const branches = labels.length > 0 ? ["pgd", "pgd_ce"] : ["pgd"];
  const starts = attack ? branches.map((_, i) => image(i === 0 ? "start_cl" : "start_ce")) : [];
  return { clean, views, labels, branches, starts };
};
type Inputs = ReturnType<typeof readInputs>;

/**
 * Projections of the clean views. They do not depend on the attack, so they go through the network once, and its running
 * statistics are moved as often as the authors' code passes them; those of the projector, in every pass of the attack.
 */
const cleanStream = (store: Store, encoder: Layer, views: readonly Value[], passes: number) => {
  const inEncoder: BatchStatistics[] = [];
  const inProjector: BatchStatistics[] = [];
  const normal = new Scope(store, { branches: views.map(() => "normal") });
  const features = encoder(normal.with({ statistics: (s) => inEncoder.push(s) }), interleave(views));
  const projections = projector(normal.at("head_proj").with({ statistics: (s) => inProjector.push(s) }), features);
  moveStatisticsRepeatedly(store, inEncoder, passes);
  return { projections, inProjector };
};

/** A loss of unit rows [B·views,D], view v of image b in row b·views + v; view 0 is the adversarial one, 1 is `view1`. */
export type ContrastiveLoss = (z: Value, views: number) => Value;

interface Losses extends Readonly<Record<string, Value>> {
  readonly loss: Value;
  readonly contrastive: Value;
}

/** The joint loss of adversarial views x, beside the projections of the clean ones (its equations 3 to 5). */
const jointLoss =
  (
    { store, encoder }: StepParts,
    { views, labels, branches }: Inputs,
    inProjector: readonly BatchStatistics[],
    options: StepOptions & AdvclOptions,
  ) =>
  (
    x: Value,
    others: Value,
    reduction: LossReduction,
    contrast: ContrastiveLoss = (z, count) => contrastive(z, count, options),
  ): Losses => {
    const { batch, clusters, clusterWeight } = options;
    const adversarial = new Scope(store, { branches });
    const h = encoder(adversarial, x);
    const hidden = projectorHidden(adversarial.at("head_proj"), h);
    for (const statistics of inProjector) moveStatistics(store, statistics);
    const z = projectorOutput(adversarial.at("head_proj"), viewOf(hidden, 0, branches.length));
    const width = z.dim(1);
    const all = concat([reshape(z, [batch, 1, width]), reshape(others, [batch, views.length, width])], { axis: 1 });
    const rows = store.contrasted(reshape(all, [batch * (views.length + 1), width]));
    const together = contrast(rows, views.length + 1);
    if (labels.length === 0) return { loss: together, contrastive: together };
    const logits = clusterHeads(adversarial.with({ branches: ["pgd_ce"] }), clusters, viewOf(h, 1, 2));
    const clustered = named("clustering", () =>
      mul(
        logits.map((l, i) => crossEntropy(l, labels[i]!, reduction)).reduce((a, b) => add(a, b)),
        1 / clusters.length,
      ),
    );
    return { loss: add(together, mul(clustered, clusterWeight)), contrastive: together, clustering: clustered };
  };

/**
 * AdvCL (Fan et al., NeurIPS 2021, algorithm 1): two augmented views and the high-frequency part of an image attract the
 * adversarial image, and an adversarial image tells the clusters that a teacher's features fell into; the attack raises the
 * sum of both losses, in training mode as in the authors' code. Inputs: `clean`, `view1`, `view2`, `start_cl`, `start_ce`
 * [B,3,S,S] and `label_K` int32 [B].
 * @param learnt another contrastive loss than the attack's for the weights to learn from, given the attacked images, and
 *   figures that belong to it
 */
export const advclStep = (
  options: StepOptions & AdvclOptions,
  learnt?: (
    parts: StepParts,
    clean: Value,
    attacked: Value,
  ) => { readonly contrast: ContrastiveLoss; readonly figures: Readonly<Record<string, Value>> },
): Step => {
  const { attack, attackSteps } = options;
  const parts = stepParts(options, advclBranches);
  const { store, encoder } = parts;
  const inputs = readInputs(parts, options);
  const { clean, views, branches, starts } = inputs;
  const passes = attack ? attackSteps + 1 : 1;
  const { projections, inProjector } = cleanStream(store, encoder, views, passes);
  const losses = jointLoss(parts, inputs, inProjector, options);

  const trace: Record<string, Value> = {};
  const traced = (name: string, pair: Value): void =>
    branches.forEach((_, i) => {
      trace[`attack.${name}_${i === 0 ? "cl" : "ce"}`] = viewOf(pair, i, branches.length);
    });
  let x = interleave(branches.map(() => clean));
  if (attack) {
    const fixed = stopGradient(projections);
    const hooks: PgdHooks = {
      loop: (...loop) => store.loop(...loop),
      ...(options.trace && {
        first: ({ gradient, next }) => {
          traced("first_grad", gradient);
          traced("first_x", next);
        },
      }),
    };
    const pair = x;
    const start = named("attack", () => add(pair, interleave(starts)));
    x = pgdSteps(linfPgd(options), (at) => losses(at, fixed, "sum").loss, hooks)(pair, start);
  }
  traced("x", x);
  const { contrast, figures } = learnt?.(parts, clean, viewOf(x, 0, branches.length)) ?? {};
  return finish(store, options, { ...losses(x, projections, "mean", contrast), ...figures }, trace);
};

export const advclInputs = ({ eps, attack, clusters }: AdvclOptions): InputRecipes => ({
  clean: weakView,
  view1: advclView,
  view2: advclView,
  ...(attack && { start_cl: uniformStart(eps) }),
  ...(attack && clusters.length > 0 && { start_ce: uniformStart(eps) }),
  ...Object.fromEntries(clusters.map((k) => [labelName(k), { kind: "pseudo-label", k }])),
});

/** Its own options as the paper has them. */
export const advclPaper: AdvclOptions = {
  ...paperAttack,
  temperature: 0.5,
  baseTemperature: 0.07,
  radius: 8,
  clusters: [2, 10, 50, 100, 500],
  clusterWeight: 0.2,
  attack: true,
};

export const advcl = defineMethod<AdvclOptions>({
  name: "advcl",
  title: "AdvCL (Fan et al. 2021)",
  branches: advclBranches,
  evaluatedBranch: "pgd",
  own: advclPaper,
  training: advclTraining,
  inputs: advclInputs,
  build: (options) => advclStep(options),
});
