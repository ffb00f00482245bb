import { adamW } from "./adamw.ts";
import { lars } from "./lars.ts";
import { type Optimizer, type SgdOptions, sgd } from "./sgd.ts";

export const optimizerNames = ["sgd", "lars", "adamw"] as const;

export interface OptimizerOptions extends SgdOptions {
  /** Default sgd. */
  readonly optimizer?: (typeof optimizerNames)[number];
}

/** The optimizer of that name; AdamW has its own momenta (0.9, 0.999) whatever `momentum` says. */
export const optimizerOf = ({ optimizer = "sgd", ...options }: OptimizerOptions): Optimizer =>
  ({ sgd, lars, adamw: adamW })[optimizer](options);
