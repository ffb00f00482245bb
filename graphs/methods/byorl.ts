import { type AttackOptions, pgd } from "../attacks/pgd.ts";
import { cosine } from "../losses/cosine.ts";
import { twoLayerProjector } from "../nn/head.ts";
import { viewOf } from "../nn/interleave.ts";
import { Scope } from "../nn/scope.ts";
import { scalar, type Value } from "../onnx/graph.ts";
import { add, mul, stopGradient, sub } from "../ops/index.ts";
import { finish } from "../steps/step.ts";
import { aclView } from "../views/recipe.ts";
import { attackedParts, defineMethod, pairStarts, paperAttack, simclrTraining, tracePair, viewPair } from "./method.ts";

const TARGET = "target";

/** BYOL's target: the decay of its moving average rises from this to 1 by a cosine. */
const DECAY = 0.996;

/**
 * BYORL (Gowal et al., ICLR 2021): BYOL (Grill et al. 2020) whose online views are attacked (evaluation mode) to raise its
 * loss, 2 - 2·cos(predictor(online(view)), target(other view)), summed over both orders. The target is a moving average
 * of the online network. Inputs `view1`, `view2`, `start1`, `start2` and the scalar `decay` of the average.
 */
export const byorl = defineMethod<AttackOptions>({
  name: "byorl",
  title: "BYORL (Gowal et al. 2021)",
  branches: undefined,
  evaluatedBranch: "normal",
  own: paperAttack,
  // BYOL's rate and decay, scaled to the batch.
  training: { ...simclrTraining, lr: 0.4, lrEnd: 0, weightDecay: 1.5e-6 },
  inputs: ({ eps }) => ({ view1: aclView, view2: aclView, ...pairStarts(eps) }),
  scalars: (_, __, progress) => ({ decay: 1 - ((1 - DECAY) * (1 + Math.cos(Math.PI * progress))) / 2 }),
  build: (options) => {
    const parts = attackedParts(options);
    const { store, encoder, attack } = parts;
    const { clean, start } = viewPair(parts);
    const project = (scope: Scope, x: Value) => {
      const h = encoder(scope, x);
      return twoLayerProjector({ hidden: 8 * h.dim(1), output: h.dim(1) / 2, norm: true })(scope.at("head_proj"), h);
    };
    const predict = (scope: Scope, x: Value) => {
      const z = project(scope, x);
      return twoLayerProjector({ hidden: 16 * z.dim(1), output: z.dim(1), norm: true })(scope.at("head_pred"), z);
    };
    // One batch norm for both views, each normalised by its own batch.
    const views = new Scope(store, { branches: ["view1", "view2"] });
    const aims = stopGradient(project(views.with({ copy: TARGET }), clean));
    const crossed = (q: Value): Value => {
      const distance = (mine: number) => sub(scalar(2), mul(cosine(viewOf(q, mine, 2), viewOf(aims, 1 - mine, 2)), 2));
      return add(distance(0), distance(1));
    };

    const adversarial = pgd(attack, (x) => crossed(predict(views.with({ mode: "eval" }), x)))(clean, start);
    const loss = crossed(predict(views, adversarial));
    const decay = store.input("decay", { dtype: "float32", shape: [] });
    return finish(store, options, { loss }, tracePair(adversarial), [{ copy: TARGET, decay, existing: true }]);
  },
});
