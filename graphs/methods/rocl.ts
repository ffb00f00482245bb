import { pgd } from "../attacks/pgd.ts";
import { ntXent } from "../losses/contrastive.ts";
import { twoLayerProjector } from "../nn/head.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import { Scope } from "../nn/scope.ts";
import type { Value } from "../onnx/graph.ts";
import { add, clip, mul } from "../ops/index.ts";
import { finish } from "../steps/step.ts";
import { advclView, uniformStart } from "../views/recipe.ts";
import { attackedParts, type ContrastiveAttackOptions, defineMethod, simclrTraining } from "./method.ts";

/** Weight of the regulariser: 1/256 in its code. */
const LAMBDA = 1 / 256;

/**
 * RoCL (Kim et al., NeurIPS 2020): the first view is attacked (evaluation mode) away from the second; NT-Xent over the two
 * views and the attacked one, and a little NT-Xent of the attacked one with the second. As in its code the second factor
 * of each similarity is a constant to the gradient. Inputs `view1`, `view2`, `start1`.
 */
export const rocl = defineMethod<ContrastiveAttackOptions>({
  name: "rocl",
  title: "RoCL (Kim et al. 2020)",
  branches: undefined,
  evaluatedBranch: "normal",
  own: { attackSteps: 7, eps: 0.0314, stepSize: 0.007, temperature: 0.5 },
  // 0.1 before the warm-up, fifteen times that after it.
  training: { ...simclrTraining, lr: 1.5, lrEnd: 0, warmupFrom: 0.1 },
  inputs: ({ eps }) => ({ view1: advclView, view2: advclView, start1: uniformStart(eps) }),
  build: (options) => {
    const { store, encoder, image, attack } = attackedParts(options);
    const similarity = (z: Value, views: number) =>
      ntXent(store.contrasted(z), views, options.temperature, { detachSecond: true });
    const project = (scope: Scope, x: Value) => {
      const h = encoder(scope, x);
      const head = twoLayerProjector({ hidden: 4 * h.dim(1), output: 128, norm: false });
      return head(scope.at("head_proj"), h);
    };
    const [view1, view2] = [image("view1"), image("view2")];

    const attacking = new Scope(store, { mode: "eval" });
    const away = (x: Value) => similarity(project(attacking, interleave([x, view2])), 2);
    const adversarial = pgd(attack, away)(view1, clip(add(view1, image("start1")), 0, 1));

    // Its code passes twice: the pair of the regulariser first, then the three views, each one batch to the batch norm.
    const scope = new Scope(store);
    const regulariser = mul(similarity(project(scope, interleave([adversarial, view2])), 2), LAMBDA);
    const contrast = similarity(project(scope, interleave([view1, view2, adversarial])), 3);
    return finish(
      store,
      options,
      { loss: add(contrast, regulariser), contrastive: contrast, regulariser },
      { "attack.x1": viewOf(adversarial, 0, 1) },
    );
  },
});
