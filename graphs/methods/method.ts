/** What the methods of pretraining share: a method is one step program and what it needs to be fed and evaluated. */

import type { PgdOptions } from "../attacks/pgd.ts";
import { linf } from "../attacks/threat-model.ts";
import { interleave, viewOf } from "../nn/interleave.ts";
import type { Layer } from "../nn/layer.ts";
import { type Depth, resnet, type Stem } from "../nn/resnet.ts";
import { Store } from "../nn/scope.ts";
import type { Type, Value } from "../onnx/graph.ts";
import { add } from "../ops/index.ts";
import type { FinishOptions, Step } from "../steps/step.ts";

export interface MethodOptions extends FinishOptions {
  readonly batch: number;
  readonly size: number;
  readonly depth: Depth;
  readonly width: number;
  readonly stem: Stem;
  readonly temperature: number;
  readonly eps: number;
  readonly stepSize: number;
  readonly attackSteps: number;
}

export interface Method<O extends MethodOptions = MethodOptions> {
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
  build(options: O): Step;
}

export interface Beginning {
  readonly store: Store;
  readonly encoder: Layer;
  /** An input of images [B,3,S,S]. */
  image(name: string): Value;
  /** The attack of the options, L-infinity. */
  readonly attack: PgdOptions;
}

/** A store with what every step starts from. */
export const begin = (options: MethodOptions, branches?: readonly string[]): Beginning => {
  const store = new Store();
  const type: Type = { dtype: "float32", shape: [options.batch, 3, options.size, options.size] };
  return {
    store,
    encoder: resnet({ ...options, branches }),
    image: (name) => store.input(name, type),
    attack: { threat: linf(options.eps), steps: options.attackSteps, stepSize: options.stepSize },
  };
};

/**
 * Two views of each image in one batch, which are attacked together: inputs `view1`, `view2` and the starts of their
 * attacks, `start1`, `start2`.
 */
export const viewPair = ({ image }: Beginning): { readonly clean: Value; readonly start: Value } => {
  const clean = interleave([image("view1"), image("view2")]);
  return { clean, start: add(clean, interleave([image("start1"), image("start2")])) };
};

/** What a step of attacked pairs traces. */
export const tracePair = (adversarial: Value): Readonly<Record<string, Value>> => ({
  "attack.x1": viewOf(adversarial, 0, 2),
  "attack.x2": viewOf(adversarial, 1, 2),
});

/** The batch-norm branches of dual streams: of clean views, and of attacked ones. */
export const dualBranches = ["normal", "pgd"];
