import { type AttackOptions, pgd } from "../attacks/pgd.ts";
import { cosine } from "../losses/cosine.ts";
import { threeLayerProjector } from "../nn/head.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import { Scope } from "../nn/scope.ts";
import type { Value } from "../onnx/graph.ts";
import { add, mul, neg } from "../ops/index.ts";
import { finish } from "../steps/step.ts";
import { uniformStart, weakView } from "../views/recipe.ts";
import { advclTraining, attackedParts, defineMethod, paperAttack } from "./method.ts";

/** The copy of the network that is the teacher. */
export const TEACHER = "teacher";

/**
 * DeACL (Zhang et al., ECCV 2022), the second stage: a student comes to agree with a frozen SimCLR teacher on clean images
 * and with itself on attacked ones. The attack (evaluation mode) lowers the student's cosine with the teacher.
 * loss = -cos(student(clean), teacher(clean)) - 2·cos(student(adversarial), student(clean)). Inputs `clean`, `start`.
 */
export const deacl = defineMethod<AttackOptions>({
  name: "deacl",
  title: "DeACL (Zhang et al. 2022)",
  branches: undefined,
  evaluatedBranch: "normal",
  own: paperAttack,
  training: {
    ...advclTraining,
    epochs: 100,
    batch: 256,
    lr: 0.5,
    weightDecay: 5e-4,
    schedule: "cosine",
    warmupEpochs: 10,
    warmupFrom: 0,
  },
  inputs: ({ eps }) => ({ clean: weakView, start: uniformStart(eps) }),
  given: [TEACHER],
  build: (options) => {
    const { store, encoder, image, attack } = attackedParts(options);
    const project = (scope: Scope, x: Value) => threeLayerProjector()(scope.at("head_proj"), encoder(scope, x));
    const clean = image("clean");
    const frozen = new Scope(store, { mode: "eval" });
    const taught = project(frozen.with({ copy: TEACHER }), clean);

    const adversarial = pgd(attack, (x) => neg(cosine(project(frozen, x), taught)))(clean, add(clean, image("start")));

    // One batch norm for both, each normalised by its own batch.
    const student = new Scope(store, { branches: ["clean", "adversarial"] });
    const z = project(student, interleave([clean, adversarial]));
    const [zClean, zAdversarial] = [viewOf(z, 0, 2), viewOf(z, 1, 2)];
    const distilled = neg(cosine(zClean, taught));
    const robust = neg(cosine(zAdversarial, zClean));
    return finish(
      store,
      options,
      { loss: add(distilled, mul(robust, 2)), distilled, robust },
      { "attack.x": adversarial },
    );
  },
});
