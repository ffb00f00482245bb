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
  simclrTraining,
  tracePair,
  viewPair,
} from "./method.ts";

/**
 * ACL with dual streams (Jiang et al., NeurIPS 2020): NT-Xent of the clean views through the branch `normal`, and of the
 * views attacked together (batch norm in evaluation mode) through `pgd`; the mean of both. Inputs `view1`, `view2` and the
 * starts of their attacks, `start1`, `start2`.
 */
export const acl = defineMethod<ContrastiveAttackOptions>({
  name: "acl",
  title: "ACL, dual stream (Jiang et al. 2020)",
  branches,
  evaluatedBranch: "pgd",
  own: { ...paperAttack, temperature: 0.5 },
  training: simclrTraining,
  inputs: ({ eps }) => ({ view1: aclView, view2: aclView, ...pairStarts(eps) }),
  build: (options) => {
    const parts = attackedParts(options, branches);
    const { store, encoder, attack } = parts;
    const { clean, start } = viewPair(parts);
    const project = (scope: Scope, x: Value) => threeLayerProjector(branches)(scope.at("head_proj"), encoder(scope, x));
    const contrast = (z: Value) => ntXent(z, 2, options.temperature);

    const attacking = new Scope(store, { mode: "eval", branches: ["pgd"] });
    const attacked = pgd(attack, (x) => contrast(project(attacking, x)))(clean, start);

    const z = project(new Scope(store, { branches }), interleave([clean, attacked]));
    const metrics = { clean: contrast(viewOf(z, 0, 2)), adversarial: contrast(viewOf(z, 1, 2)) };
    const loss = mul(add(metrics.clean, metrics.adversarial), 0.5);
    return finish(store, options, { loss, ...metrics }, tracePair(attacked));
  },
});
