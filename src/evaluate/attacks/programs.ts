/** Programs that an oracle runs: told in plain data, so that another thread may ask for them, and built of a classifier. */
import { threatModel } from "../../../graphs/attacks/threat-model.ts";
import {
  type AttackLoss,
  type Classifier,
  gradientStep,
  type ImageLoss,
  logitsStep,
  pgdStep,
} from "../../../graphs/steps/evaluate.ts";
import type { Step } from "../../../graphs/steps/step.ts";
import type { Engine } from "../../engine/engine.ts";
import { RequestError } from "../../errors.ts";
import type { LossKind } from "./attack.ts";
import { type Oracle, type OracleOptions, oracleOf, type PgdAttack } from "./oracle.ts";

/** Logits of so many images, a loss with its gradient, or a whole PGD attack. */
export type OracleProgram = { readonly size: number } & (
  | { readonly kind: "logits" | LossKind }
  | { readonly kind: "pgd"; readonly attack: PgdAttack }
);

/** What programs are built of. */
export interface ClassifierPrograms {
  readonly classifier: Classifier;
  readonly image: readonly [channels: number, height: number, width: number];
  /** Losses that may be asked for as `own:NAME`, by that name. */
  readonly losses?: Readonly<Record<string, ImageLoss>> | undefined;
}

/** The loss of a kind: its name, where it is ours. */
const lossOf = (kind: LossKind, losses: ClassifierPrograms["losses"] = {}): AttackLoss | ImageLoss => {
  if (!kind.startsWith("own:")) return kind as AttackLoss;
  const loss = Object.hasOwn(losses, kind.slice(4)) ? losses[kind.slice(4)] : undefined;
  if (loss === undefined)
    throw new RequestError(
      `an attack asks for the loss ${kind}, which no plugin has; give it under losses, with that name`,
    );
  return loss;
};

/** Builds the outputs of programs. Throws a RequestError where one asks for a loss that is not there. */
export const programsOf =
  ({ classifier, image, losses }: ClassifierPrograms) =>
  (program: OracleProgram): Step["outputs"] => {
    const shape = { batch: program.size, image };
    if (program.kind === "logits") return logitsStep(classifier, shape);
    if (program.kind !== "pgd") return gradientStep(classifier, shape, lossOf(program.kind, losses));
    const { norm, eps, steps, stepSize } = program.attack;
    return pgdStep(classifier, shape, { threat: threatModel(norm, eps), steps, stepSize });
  };

/** An oracle of a classifier. */
export const openOracle = ({
  load,
  ...options
}: ClassifierPrograms & Omit<OracleOptions, "load"> & { readonly load: Engine["loadEvaluation"] }): Oracle => {
  const outputsOf = programsOf(options);
  return oracleOf({ ...options, load: (program) => load(outputsOf(program)) });
};
