import { pgd } from "../attacks/pgd.ts";
import { cosine } from "../losses/cosine.ts";
import { twoLayerProjector } from "../nn/head.ts";
import { viewOf } from "../nn/interleave.ts";
import { Scope } from "../nn/scope.ts";
import { scalar, type Value } from "../onnx/graph.ts";
import { add, mul, stopGradient, sub } from "../ops/index.ts";
import { finish } from "../steps/step.ts";
import { begin, type Method, tracePair, viewPair } from "./method.ts";

const TARGET = "target";

/**
 * BYORL (Gowal et al., ICLR 2021): BYOL (Grill et al. 2020) whose online views are attacked (evaluation mode) to raise its
 * loss, 2 - 2·cos(predictor(online(view)), target(other view)), summed over both orders. The target is a moving average
 * of the online network. Inputs `view1`, `view2`, `start1`, `start2` and the scalar `decay` of the average.
 */
export const byorl: Method = {
  name: "byorl",
  title: "BYORL (Gowal et al. 2021)",
  branches: undefined,
  evaluatedBranch: "normal",
  build: (options) => {
    const beginning = begin(options);
    const { store, encoder, attack } = beginning;
    const { clean, start } = viewPair(beginning);
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
};
