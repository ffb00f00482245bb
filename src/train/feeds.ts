/** How each method of pretraining is fed; the methods themselves are in graphs/methods. */

import { TEACHER } from "../../graphs/methods/deacl.ts";
import { methodNames, methods } from "../../graphs/methods/index.ts";
import type { Method, TrainingSettings } from "../../graphs/methods/method.ts";
import type { LoaderInputs } from "../data/loader.ts";
import { RequestError } from "../errors.ts";
import { kebabCase } from "../settings/name.ts";
import { methodOptions } from "./pretrain-settings.ts";
import { cosineRate, warmCosineRate } from "./schedule.ts";

/** Settings of pretraining that say how images are fed and rates change. */
export interface FeedSettings {
  readonly epochs: number;
  readonly batch: number;
  readonly lr: number;
  readonly lrEnd: number;
  readonly schedule: "advcl" | "cosine";
  readonly warmupEpochs: number;
  readonly warmupFrom: number;
  readonly eps: number;
  readonly attack: boolean;
  readonly clusters: readonly number[];
  readonly tasks: readonly string[];
}

/** Settings that a paper gives. */
export type PaperSettings = Partial<
  FeedSettings & Omit<TrainingSettings, "schedule"> & { readonly attackSteps: number; readonly stepSize: number }
>;

export interface Feed {
  /** In place of AdvCL's, which are the defaults. */
  readonly paper: PaperSettings;
  /** What the loader makes in an epoch, counted from 1. */
  inputs(settings: FeedSettings, epoch: number): LoaderInputs;
  /** Scalars of the step by schedule; `progress` is the share of training that is done. */
  scalars?(settings: FeedSettings, epoch: number, progress: number): Readonly<Record<string, number>>;
}

/** The settings of a method's paper that differ from AdvCL's, and its options that AdvCL has not. */
const changes = (method: Method): PaperSettings => {
  const ours: Readonly<Record<string, unknown>> = { ...methods.advcl.paper };
  const differing = Object.entries(method.paper).filter(([name, value]) =>
    name in ours ? ours[name] !== value : Object.hasOwn(methodOptions, name),
  );
  return { ...Object.fromEntries(differing), ...(!method.options.includes("clusters") && { clusters: [] }) };
};

/** How a method is fed. */
export const feedOf = (method: Method): Feed => ({
  paper: method.name === "advcl" ? {} : changes(method),
  inputs: (settings, epoch) => method.inputs({ ...method.paper, ...settings }, epoch),
  ...(method.scalars && {
    scalars: (settings, epoch, progress) => method.scalars?.({ ...method.paper, ...settings }, epoch, progress) ?? {},
  }),
});

/**
 * Refuses an option of other methods.
 * @throws RequestError naming the methods that have it
 */
export const checkOptions = (method: Method, settings: object): void => {
  for (const name of Object.keys(methodOptions)) {
    const given = (settings as Readonly<Record<string, unknown>>)[name] !== undefined;
    if (!given || method.options.includes(name)) continue;
    const owners = methodNames.filter((owner) => methods[owner].options.includes(name));
    throw new RequestError(
      `--${kebabCase(name)} is an option of ${owners.join(", ")}, and the method is ${method.name}; leave it out or give --method ${owners[0]}`,
    );
  }
};

/** Learning rate of a step; epoch from 1, step within it from 0. */
export const rateOf =
  (settings: FeedSettings, stepsPerEpoch: number) =>
  (epoch: number, step: number): number => {
    const { batch } = settings;
    const warmupEpochs = settings.warmupEpochs >= 0 ? settings.warmupEpochs : batch > 256 ? 10 : 0;
    const options = { ...settings, warmupEpochs, stepsPerEpoch };
    return settings.schedule === "advcl" ? cosineRate(options, epoch, step) : warmCosineRate(options, epoch, step);
  };

/** Model inputs of a teacher's weights, for a student's step. */
export const teacherState = <T>(weights: ReadonlyMap<string, T>): Map<string, T> =>
  new Map([...weights].map(([path, value]) => [`state.${TEACHER}.${path}`, value]));
