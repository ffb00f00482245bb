/**
 * AIR (Xu et al., NeurIPS 2023, "Enhancing adversarial contrastive learning via adversarial invariant regularization") on
 * ACL and on DynACL: what the views say of the original image must not depend on how they were made.
 *
 * With unit projections z1, z2 of the clean views, a1, a2 of the attacked ones, o of the image as it is (branch `normal`),
 * and p(u,v) the softmax over the batch of the cosines u_b·v_b / t:
 *   standard     KL(p(z1,o) ‖ p(z2,o))
 *   adversarial  KL(p(a1,o) ⊙ p(a1,z1) ‖ p(a2,o) ⊙ p(a2,z2))
 * where KL(p ‖ q) is Σ p·(log p - log q); the product of two is not normalised again.
 */
import { Scope } from "../nn/scope.ts";
import { named, type Value } from "../onnx/graph.ts";
import { add, div, exp, logSoftmax, mul, normalizeL2, reduceSum, reshape, sub } from "../ops/index.ts";
import { finish, type Step } from "../steps/step.ts";
import { aclView, plainView } from "../views/recipe.ts";
import { aclStreams } from "./acl.ts";
import { dynaclInputs, dynaclStreams, dynaclStrength, dynaclTraining } from "./dynacl.ts";
import {
  dualBranches as branches,
  type ContrastiveAttackOptions,
  defineMethod,
  pairStarts,
  paperAttack,
  type StepOptions,
  simclrTraining,
  tracePair,
} from "./method.ts";

export interface AirOptions extends ContrastiveAttackOptions {
  readonly standardWeight: number;
  readonly adversarialWeight: number;
  /**
   * `paper`: KL as above. `code`: the authors' code, which gives a probability where PyTorch expects a logarithm and so
   * computes Σ q·(log q - p).
   */
  readonly divergence: "paper" | "code";
}

const paperOptions: AirOptions = {
  ...paperAttack,
  temperature: 0.5,
  standardWeight: 0.5,
  adversarialWeight: 0.5,
  divergence: "paper",
};

type Streams = Pick<ReturnType<typeof aclStreams>, "store" | "image" | "project" | "projections" | "metrics">;

/** Adds both regularisers to a loss. Input `original`: the image as it is. */
const regularised = ({ store, image, project, projections, metrics }: Streams, loss: Value, options: AirOptions) => {
  const original = project(new Scope(store, { branches: ["normal"] }), image("original"));
  const unit = (z: Value) => normalizeL2(z);
  const o = unit(original);
  const [z1, z2] = projections.clean.map(unit) as [Value, Value];
  const [a1, a2] = projections.adversarial.map(unit) as [Value, Value];
  /** log p(u,v), [1,B]. */
  const logP = (u: Value, v: Value) => {
    const cosines = store.contrasted(reduceSum(mul(u, v), { axes: [1], keepdims: 0 }));
    return logSoftmax(div(reshape(cosines, [1, -1]), options.temperature), { axis: 1 });
  };
  const divergence = (p: Value, q: Value) =>
    reduceSum(options.divergence === "paper" ? mul(exp(p), sub(p, q)) : mul(exp(q), sub(q, exp(p))), { keepdims: 0 });
  const standard = named("standard_invariance", () => divergence(logP(z1, o), logP(z2, o)));
  const adversarial = named("adversarial_invariance", () =>
    divergence(add(logP(a1, o), logP(a1, z1)), add(logP(a2, o), logP(a2, z2))),
  );
  const { standardWeight, adversarialWeight } = options;
  return {
    loss: add(loss, add(mul(standard, standardWeight), mul(adversarial, adversarialWeight))),
    ...metrics,
    standardInvariance: standard,
    adversarialInvariance: adversarial,
  };
};

const buildOnAcl = (options: StepOptions & AirOptions): Step => {
  const streams = aclStreams(options);
  return finish(streams.store, options, regularised(streams, streams.loss, options), tracePair(streams.attacked));
};

/** ACL with AIR: ACL's loss and half of each regulariser. */
export const aclAir = defineMethod<AirOptions>({
  name: "acl-air",
  title: "ACL with invariant regularisation, AIR (Xu et al. 2023)",
  branches,
  evaluatedBranch: "pgd",
  own: paperOptions,
  training: simclrTraining,
  inputs: ({ eps }) => ({ view1: aclView, view2: aclView, original: plainView, ...pairStarts(eps) }),
  build: buildOnAcl,
});

const buildOnDynacl = (options: StepOptions & AirOptions): Step => {
  const streams = dynaclStreams(options);
  return finish(streams.store, options, regularised(streams, streams.weighted, options), tracePair(streams.attacked));
};

/**
 * DynACL with AIR: (1-v) · clean + (1+v) · adversarial with v = 2/3 · (1-s), s DynACL's strength, and half of each
 * regulariser. The second views go through DynACL's moving average, to which no gradient flows; the original through the
 * network that is trained.
 */
export const dynaclAir = defineMethod<AirOptions>({
  name: "dynacl-air",
  title: "DynACL with invariant regularisation, AIR (Xu et al. 2023)",
  branches,
  evaluatedBranch: "pgd",
  own: paperOptions,
  training: dynaclTraining,
  inputs: (settings, epoch) => ({ ...dynaclInputs(settings, epoch), original: plainView }),
  scalars: ({ epochs }, epoch) => ({ weight: 1 + (2 / 3) * (1 - dynaclStrength(epochs, epoch)) }),
  build: buildOnDynacl,
});
