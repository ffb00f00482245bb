import { pgd } from "../attacks/pgd.ts";
import { ntXent } from "../losses/contrastive.ts";
import { threeLayerProjector } from "../nn/head.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import { Scope } from "../nn/scope.ts";
import type { Value } from "../onnx/graph.ts";
import { add, mul } from "../ops/index.ts";
import { finish } from "../steps/step.ts";
import { begin, type Method } from "./method.ts";

const branches = ["normal", "pgd"];

/**
 * ACL with dual streams (Jiang et al., NeurIPS 2020): NT-Xent of the clean views through the branch `normal`, and of the
 * views attacked together (batch norm in evaluation mode) through `pgd`; the mean of both. Inputs `view1`, `view2` and the
 * starts of their attacks, `start1`, `start2`.
 */
export const acl: Method = {
  name: "acl",
  title: "ACL, dual stream (Jiang et al. 2020)",
  branches,
  evaluatedBranch: "pgd",
  build: (options) => {
    const { store, encoder, image, attack } = begin(options, branches);
    const project = (scope: Scope, x: Value) => threeLayerProjector(branches)(scope.at("head_proj"), encoder(scope, x));
    const clean = interleave([image("view1"), image("view2")]);
    const start = add(clean, interleave([image("start1"), image("start2")]));

    const attacking = new Scope(store, { mode: "eval", branches: ["pgd"] });
    const adversarial = pgd(attack, (x) => ntXent(project(attacking, x), 2, options.temperature))(clean, start);

    const z = project(new Scope(store, { branches }), interleave([clean, adversarial]));
    const [ofClean, ofAdversarial] = [0, 1].map((stream) => ntXent(viewOf(z, stream, 2), 2, options.temperature)) as [
      Value,
      Value,
    ];
    const loss = mul(add(ofClean, ofAdversarial), 0.5);
    return finish(
      store,
      options,
      { loss, clean: ofClean, adversarial: ofAdversarial },
      { "attack.x1": viewOf(adversarial, 0, 2), "attack.x2": viewOf(adversarial, 1, 2) },
    );
  },
};
