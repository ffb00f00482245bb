/**
 * What a plugin is given to build with: graphs as values, layers, losses, attacks, what methods of pretraining share. A plugin
 * takes it as an argument, so that it needs no import by name and never meets a second copy of this package.
 */
export { linfPgd, pgd } from "../../graphs/attacks/pgd.ts";
export { l2, linf } from "../../graphs/attacks/threat-model.ts";
export { grad, vjp } from "../../graphs/autodiff/grad.ts";
export { contrastive, ntXent } from "../../graphs/losses/contrastive.ts";
export { cosine } from "../../graphs/losses/cosine.ts";
export { crossEntropy } from "../../graphs/losses/cross-entropy.ts";
export { dlr, margin } from "../../graphs/losses/margin.ts";
export { klDivergence } from "../../graphs/losses/trades.ts";
export {
  advclTraining,
  attackedParts,
  defineMethod,
  dualBranches,
  pairStarts,
  paperAttack,
  simclrTraining,
  stepParts,
  tracePair,
  viewPair,
} from "../../graphs/methods/method.ts";
export { projector, threeLayerProjector, twoLayerProjector } from "../../graphs/nn/head.ts";
export { interleave, viewOf } from "../../graphs/nn/interleave.ts";
export { batchNorm, conv2d, linear } from "../../graphs/nn/layer.ts";
export { Scope } from "../../graphs/nn/scope.ts";
export { constant, named, scalar } from "../../graphs/onnx/graph.ts";
export { float32, tensor, zeros } from "../../graphs/onnx/tensor.ts";
export * as ops from "../../graphs/ops/public.ts";
export { finish } from "../../graphs/steps/step.ts";
export {
  aclView,
  advclView,
  dynaclView,
  normalStart,
  plainView,
  uniformStart,
  weakView,
} from "../../graphs/views/recipe.ts";
export { attackRandom, rankedTargets } from "../evaluate/attacks/attack.ts";
export { predictionOf } from "../models/prediction.ts";
