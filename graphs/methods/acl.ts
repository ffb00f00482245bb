import { pgd } from "../attacks/pgd.ts";
import { ntXent } from "../losses/contrastive.ts";
import { threeLayerProjector } from "../nn/head.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import { Scope } from "../nn/scope.ts";
import type { Value } from "../onnx/graph.ts";
import { add, mul } from "../ops/index.ts";
import { finish } from "../steps/step.ts";
import { aclView } from "../views/recipe.ts";
import {
  attackedParts,
  dualBranches as branches,
  type ContrastiveAttackOptions,
  defineMethod,
  pairStarts,
  paperAttack,
  type StepOptions,
  simclrTraining,
  tracePair,
  viewPair,
} from "./method.ts";

/**
 * Both streams: the clean views through the branch `normal`, and the views attacked together (batch norm in evaluation mode)
 * through `pgd`. Inputs `view1`, `view2` and the starts of their attacks, `start1`, `start2`.
 */
export const aclStreams = (options: StepOptions & ContrastiveAttackOptions) => {
  const parts = attackedParts(options, branches);
  const { store, encoder, attack } = parts;
  const { clean, start } = viewPair(parts);
  const project = (scope: Scope, x: Value) => threeLayerProjector(branches)(scope.at("head_proj"), encoder(scope, x));
  const contrast = (z: Value) => ntXent(store.contrasted(z), 2, options.temperature);

  const attacking = new Scope(store, { mode: "eval", branches: ["pgd"] });
  const attacked = pgd(attack, (x) => contrast(project(attacking, x)))(clean, start);

  const z = project(new Scope(store, { branches }), interleave([clean, attacked]));
  const [zClean, zAttacked] = [viewOf(z, 0, 2), viewOf(z, 1, 2)];
  const metrics = { clean: contrast(zClean), adversarial: contrast(zAttacked) };
  const pairOf = (rows: Value): readonly [Value, Value] => [viewOf(rows, 0, 2), viewOf(rows, 1, 2)];
  return {
    ...parts,
    project,
    attacked,
    /** Projections of the two views in each stream. */
    projections: { clean: pairOf(zClean), adversarial: pairOf(zAttacked) },
    metrics,
    loss: mul(add(metrics.clean, metrics.adversarial), 0.5),
  };
};

/** ACL with dual streams (Jiang et al., NeurIPS 2020): the mean of NT-Xent of the clean views and of the attacked ones. */
export const acl = defineMethod<ContrastiveAttackOptions>({
  name: "acl",
  title: "ACL, dual stream (Jiang et al. 2020)",
  branches,
  evaluatedBranch: "pgd",
  own: { ...paperAttack, temperature: 0.5 },
  training: simclrTraining,
  inputs: ({ eps }) => ({ view1: aclView, view2: aclView, ...pairStarts(eps) }),
  build: (options) => {
    const { store, loss, metrics, attacked } = aclStreams(options);
    return finish(store, options, { loss, ...metrics }, tracePair(attacked));
  },
});
