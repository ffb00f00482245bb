import { pgd } from "../attacks/pgd.ts";
import { ntXent } from "../losses/contrastive.ts";
import { threeLayerProjector } from "../nn/head.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import { Scope } from "../nn/scope.ts";
import { scalar, type Value } from "../onnx/graph.ts";
import { add, mul, stopGradient, sub } from "../ops/index.ts";
import { AVERAGE } from "../optim/ema.ts";
import { finish } from "../steps/step.ts";
import { begin, dualBranches as branches, type Method, tracePair, viewPair } from "./method.ts";

/**
 * DynACL (Luo et al., ICLR 2023): ACL under augmentations that weaken over the epochs, with a weight that moves from the
 * clean stream to the adversarial one: (2-w)/2 · clean + w/2 · adversarial. The second view of each pair goes through a
 * moving average of the weights, which is what is evaluated. Inputs as ACL's, and the scalar `weight` w.
 */
export const dynacl: Method = {
  name: "dynacl",
  title: "DynACL (Luo et al. 2023)",
  branches,
  evaluatedBranch: "pgd",
  build: (options) => {
    const beginning = begin(options, branches);
    const { store, encoder, attack } = beginning;
    const { clean, start } = viewPair(beginning);
    const project = (scope: Scope, x: Value) => threeLayerProjector(branches)(scope.at("head_proj"), encoder(scope, x));
    const contrast = (z1: Value, z2: Value) => ntXent(interleave([z1, z2]), 2, options.temperature);

    const online = new Scope(store, { branches });
    const average = online.with({ copy: AVERAGE });
    const attacking = (scope: Scope) => scope.with({ mode: "eval", branches: ["pgd"] });
    const attacked = pgd(attack, (x) =>
      contrast(project(attacking(online), viewOf(x, 0, 2)), project(attacking(average), viewOf(x, 1, 2))),
    )(clean, start);

    const streams = (view: number) => interleave([viewOf(clean, view, 2), viewOf(attacked, view, 2)]);
    const z1 = project(online, streams(0));
    const z2 = stopGradient(project(average, streams(1)));
    const [ofClean, ofAttacked] = [0, 1].map((stream) => contrast(viewOf(z1, stream, 2), viewOf(z2, stream, 2))) as [
      Value,
      Value,
    ];
    const weight = store.input("weight", { dtype: "float32", shape: [] });
    const loss = mul(add(mul(ofClean, sub(scalar(2), weight)), mul(ofAttacked, weight)), 0.5);
    return finish(store, options, { loss, clean: ofClean, adversarial: ofAttacked }, tracePair(attacked));
  },
};
