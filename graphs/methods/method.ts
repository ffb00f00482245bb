/**
 * What the methods of pretraining share. A method is one step program, the options that it alone takes, what it is fed, and
 * the settings of its paper.
 */

import { type AttackOptions, linfPgd, type PgdOptions } from "../attacks/pgd.ts";
import { type Architecture, type Depth, encoder } from "../nn/encoder.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import type { Layer } from "../nn/layer.ts";
import type { Stem } from "../nn/resnet.ts";
import { Store } from "../nn/scope.ts";
import type { Type, Value } from "../onnx/graph.ts";
import { add, type Ranks } from "../ops/index.ts";
import type { OptimizerOptions } from "../optim/optimizer.ts";
import type { FinishOptions, Step } from "../steps/step.ts";
import { type InputRecipes, uniformStart } from "../views/recipe.ts";

/** What the step of any method is built from: the network, the batch, the optimizer. */
export interface StepOptions extends FinishOptions {
  readonly batch: number;
  readonly size: number;
  /** Left out, a ResNet. */
  readonly arch?: Architecture | undefined;
  readonly depth: Depth;
  readonly width: number;
  readonly stem: Stem;
  /** Processes that share the batch, of which `batch` is then this one's part. */
  readonly ranks?: Ranks | undefined;
}

/** Settings of a training that every method has: for how long, at which rate. */
export interface TrainingSettings extends Required<OptimizerOptions> {
  readonly epochs: number;
  readonly batch: number;
  readonly lr: number;
  /** `advcl`: by epochs to lr/1000; `cosine`: by steps to `lrEnd`. */
  readonly schedule: "advcl" | "cosine";
  readonly lrEnd: number;
  /** -1: 10 for a batch over 256, otherwise none. */
  readonly warmupEpochs: number;
  readonly warmupFrom: number;
  /** Decay of a moving average of the weights, which is then what is evaluated; 0: none. */
  readonly ema: number;
}

/** A method whose own options are O. */
export interface Method<O extends object = object> {
  /** As `pretrain --method` takes it. */
  readonly name: string;
  /** Its name and paper, for people. */
  readonly title: string;
  /** Batch-norm branches in the order of bn_list; undefined: one ordinary batch norm. */
  readonly branches: readonly string[] | undefined;
  /** The branch that finetuning and evaluation take. */
  readonly evaluatedBranch: string;
  /** Copies of the network that must be given from outside, by name: a frozen teacher. */
  readonly given?: readonly string[];
  /** Names of the options that are its own. */
  readonly options: readonly string[];
  /** All settings of its paper, those of its own options too. */
  readonly paper: TrainingSettings & O;
  /** What the inputs of its step are made from in an epoch, counted from 1. */
  inputs(settings: O & Pick<TrainingSettings, "epochs">, epoch: number): InputRecipes;
  /** Scalars of the step by schedule; `progress` is the share of training that is done. */
  scalars?(
    settings: O & Pick<TrainingSettings, "epochs">,
    epoch: number,
    progress: number,
  ): Readonly<Record<string, number>>;
  build(options: StepOptions & O): Step;
}

export interface MethodSpec<O extends object> extends Omit<Method<O>, "options" | "paper"> {
  /** Its own options, at the paper's values. */
  readonly own: O;
  /** The paper's other settings. */
  readonly training: TrainingSettings;
}

/** A method; to build its step without one of its own options is an error. */
export const defineMethod = <O extends object>({ own, training, ...method }: MethodSpec<O>): Method<O> => {
  const options = Object.keys(own);
  return {
    ...method,
    options,
    paper: { ...training, ...own },
    build: (given) => {
      for (const name of options)
        if ((given as Readonly<Record<string, unknown>>)[name] === undefined)
          throw new Error(`internal: the step of ${method.name} is built without its option ${name}`);
      return method.build(given);
    },
  };
};

/** AdvCL's settings of a training (Fan et al. 2021 and its code). */
export const advclTraining: TrainingSettings = {
  epochs: 1000,
  batch: 512,
  lr: 0.5,
  optimizer: "sgd",
  momentum: 0.9,
  weightDecay: 1e-4,
  schedule: "advcl",
  lrEnd: 0,
  warmupEpochs: -1,
  warmupFrom: 0.01,
  ema: 0,
};

/** Those of SimCLR's large batches, as ACL's code has them. */
export const simclrTraining: TrainingSettings = {
  ...advclTraining,
  optimizer: "lars",
  lr: 5,
  lrEnd: 1e-6,
  weightDecay: 1e-6,
  schedule: "cosine",
  warmupEpochs: 10,
  warmupFrom: 0,
};

/** The attack of most papers: five steps of 2/255 in a ball of 8/255. */
export const paperAttack: AttackOptions = { attackSteps: 5, eps: 8 / 255, stepSize: 2 / 255 };

/** Options of a contrastive method under attack. */
export interface ContrastiveAttackOptions extends AttackOptions {
  readonly temperature: number;
}

export interface StepParts {
  readonly store: Store;
  readonly encoder: Layer;
  /** An input of images [B,3,S,S]. */
  image(name: string): Value;
}

/** A store with what every step starts from. */
export const stepParts = (options: StepOptions, branches?: readonly string[]): StepParts => {
  const store = new Store(options.ranks);
  const type: Type = { dtype: "float32", shape: [options.batch, 3, options.size, options.size] };
  return {
    store,
    encoder: encoder({ ...options, branches }),
    image: (name) => store.input(name, type),
  };
};

/** The same with the attack of the options. */
export const attackedParts = (
  options: StepOptions & AttackOptions,
  branches?: readonly string[],
): StepParts & { readonly attack: PgdOptions } => ({ ...stepParts(options, branches), attack: linfPgd(options) });

/**
 * Two views of each image in one batch, which are attacked together: inputs `view1`, `view2` and the starts of their
 * attacks, `start1`, `start2`.
 */
export const viewPair = ({ image }: StepParts): { readonly clean: Value; readonly start: Value } => {
  const clean = interleave([image("view1"), image("view2")]);
  return { clean, start: add(clean, interleave([image("start1"), image("start2")])) };
};

/** What the two starts of a pair of views are made from. */
export const pairStarts = (eps: number) => ({ start1: uniformStart(eps), start2: uniformStart(eps) });

/** What a step of attacked pairs traces. */
export const tracePair = (adversarial: Value): Readonly<Record<string, Value>> => ({
  "attack.x1": viewOf(adversarial, 0, 2),
  "attack.x2": viewOf(adversarial, 1, 2),
});

/** The batch-norm branches of dual streams: of clean views, and of attacked ones. */
export const dualBranches = ["normal", "pgd"];
