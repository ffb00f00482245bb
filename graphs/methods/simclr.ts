import { ntXent } from "../losses/contrastive.ts";
import { threeLayerProjector } from "../nn/head.ts";
import { interleave } from "../nn/interleave.ts";
import { Scope } from "../nn/scope.ts";
import { finish } from "../steps/step.ts";
import { aclView } from "../views/recipe.ts";
import { defineMethod, simclrTraining, stepParts } from "./method.ts";

/**
 * SimCLR (Chen et al., ICML 2020): two views of each image attract, all others repel. No attack: the baseline, and the
 * clean teacher. Inputs `view1`, `view2`.
 */
export const simclr = defineMethod<{ readonly temperature: number }>({
  name: "simclr",
  title: "SimCLR (Chen et al. 2020)",
  branches: undefined,
  evaluatedBranch: "normal",
  own: { temperature: 0.5 },
  training: simclrTraining,
  inputs: () => ({ view1: aclView, view2: aclView }),
  build: (options) => {
    const { store, encoder, image } = stepParts(options);
    const scope = new Scope(store);
    // Both views are one batch to the batch norm.
    const h = encoder(scope, interleave([image("view1"), image("view2")]));
    const z = threeLayerProjector()(scope.at("head_proj"), h);
    return finish(store, options, { loss: ntXent(store.contrasted(z), 2, options.temperature) });
  },
});
