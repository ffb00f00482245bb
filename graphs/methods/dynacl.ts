import { pgd } from "../attacks/pgd.ts";
import { ntXent } from "../losses/contrastive.ts";
import { threeLayerProjector } from "../nn/head.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import { Scope } from "../nn/scope.ts";
import { scalar, type Value } from "../onnx/graph.ts";
import { add, mul, stopGradient, sub } from "../ops/index.ts";
import { AVERAGE } from "../optim/ema.ts";
import { finish } from "../steps/step.ts";
import { dynaclView, type InputRecipes } from "../views/recipe.ts";
import {
  attackedParts,
  dualBranches as branches,
  type ContrastiveAttackOptions,
  defineMethod,
  pairStarts,
  paperAttack,
  type StepOptions,
  simclrTraining,
  type TrainingSettings,
  tracePair,
  viewPair,
} from "./method.ts";

/** Its schedule moves every 50 of its 1000 epochs. */
const period = (epochs: number): number => Math.max(1, Math.round(epochs / 20));

/** Strength of the augmentation in an epoch: from 1 down, period by period. */
export const dynaclStrength = (epochs: number, epoch: number): number => {
  const first = Math.floor((epoch - 1) / period(epochs)) * period(epochs);
  return 1 - first / epochs;
};

export const dynaclTraining: TrainingSettings = { ...simclrTraining, ema: 0.99 };

export const dynaclInputs = ({ eps, epochs }: { eps: number; epochs: number }, epoch: number): InputRecipes => {
  const view = dynaclView(dynaclStrength(epochs, epoch));
  return { view1: view, view2: view, ...pairStarts(eps) };
};

/** Weight w of the adversarial stream: from 1 up by 2/3 over the training, period by period. */
export const dynaclWeight = (epochs: number, epoch: number): number =>
  Math.min(1 + ((Math.floor(epoch / period(epochs)) * period(epochs)) / epochs) * (2 / 3), 2);

/**
 * Both streams, the second view of each pair through a moving average of the weights. Inputs as ACL's, and the scalar
 * `weight` w of the adversarial stream.
 */
export const dynaclStreams = (options: StepOptions & ContrastiveAttackOptions) => {
  const parts = attackedParts(options, branches);
  const { store, encoder, attack } = parts;
  const { clean, start } = viewPair(parts);
  const project = (scope: Scope, x: Value) => threeLayerProjector(branches)(scope.at("head_proj"), encoder(scope, x));
  const contrast = (z1: Value, z2: Value) => ntXent(store.contrasted(interleave([z1, z2])), 2, options.temperature);

  const online = new Scope(store, { branches });
  const average = online.with({ copy: AVERAGE });
  const attacking = (scope: Scope) => scope.with({ mode: "eval", branches: ["pgd"] });
  const attacked = pgd(attack, (x) =>
    contrast(project(attacking(online), viewOf(x, 0, 2)), project(attacking(average), viewOf(x, 1, 2))),
  )(clean, start);

  const streams = (view: number) => interleave([viewOf(clean, view, 2), viewOf(attacked, view, 2)]);
  const z1 = project(online, streams(0));
  const z2 = stopGradient(project(average, streams(1)));
  const pairOf = (stream: number): readonly [Value, Value] => [viewOf(z1, stream, 2), viewOf(z2, stream, 2)];
  const projections = { clean: pairOf(0), adversarial: pairOf(1) };
  const metrics = { clean: contrast(...projections.clean), adversarial: contrast(...projections.adversarial) };
  const weight = store.input("weight", { dtype: "float32", shape: [] });
  const weighted = add(mul(metrics.clean, sub(scalar(2), weight)), mul(metrics.adversarial, weight));
  /** `weighted` is (2-w) · clean + w · adversarial. */
  return { ...parts, project, attacked, projections, metrics, weighted };
};

/**
 * DynACL (Luo et al., ICLR 2023): ACL under augmentations that weaken over the epochs, with a weight that moves from the
 * clean stream to the adversarial one: (2-w)/2 · clean + w/2 · adversarial. The moving average is what is evaluated.
 */
export const dynacl = defineMethod<ContrastiveAttackOptions>({
  name: "dynacl",
  title: "DynACL (Luo et al. 2023)",
  branches,
  evaluatedBranch: "pgd",
  own: { ...paperAttack, temperature: 0.5 },
  training: dynaclTraining,
  inputs: dynaclInputs,
  scalars: ({ epochs }, epoch) => ({ weight: dynaclWeight(epochs, epoch) }),
  build: (options) => {
    const { store, weighted, metrics, attacked } = dynaclStreams(options);
    return finish(store, options, { loss: mul(weighted, 0.5), ...metrics }, tracePair(attacked));
  },
});
