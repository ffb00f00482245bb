/** How each method of pretraining is fed, and the settings of its paper; what it computes is in graphs/methods. */

import { TEACHER } from "../../graphs/methods/deacl.ts";
import type { MethodName } from "../../graphs/methods/index.ts";
import { headName } from "../../graphs/nn/head.ts";
import { maskings, ninthOrders, quarterOrders } from "../../graphs/views/puzzles.ts";
import type { LoaderInputs } from "../data/loader.ts";
import { aclView, advclView, dynaclView, uniformStart, weakView } from "../data/view.ts";
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
  FeedSettings & {
    readonly optimizer: "sgd" | "lars" | "adamw";
    readonly momentum: number;
    readonly weightDecay: number;
    readonly attackSteps: number;
    readonly stepSize: number;
    readonly ema: number;
    readonly highFrequency: boolean;
  }
>;

export interface Feed {
  /** In place of AdvCL's, which are the defaults. */
  readonly paper: PaperSettings;
  /** What the loader makes in an epoch, counted from 1. */
  inputs(settings: FeedSettings, epoch: number): LoaderInputs;
  /** Scalars of the step by schedule; `progress` is the share of training that is done. */
  scalars?(settings: FeedSettings, epoch: number, progress: number): Readonly<Record<string, number>>;
}

const large: PaperSettings = {
  optimizer: "lars",
  lr: 5,
  lrEnd: 1e-6,
  weightDecay: 1e-6,
  schedule: "cosine",
  warmupEpochs: 10,
  warmupFrom: 0,
  clusters: [],
};

const starts = (eps: number) => ({ start1: uniformStart(eps), start2: uniformStart(eps) });

/** DynACL's schedule moves every 50 of its 1000 epochs. */
const period = (epochs: number): number => Math.max(1, Math.round(epochs / 20));

/** Strength of DynACL's augmentation in an epoch: from 1 down, period by period. */
export const dynaclStrength = (epochs: number, epoch: number): number => {
  const first = Math.floor((epoch - 1) / period(epochs)) * period(epochs);
  return 1 - first / epochs;
};

/** Weight w of DynACL's adversarial stream: from 1 up by 2/3 over the training, period by period. */
export const dynaclWeight = (epochs: number, epoch: number): number =>
  Math.min(1 + ((Math.floor(epoch / period(epochs)) * period(epochs)) / epochs) * (2 / 3), 2);

/** BYOL's target: the decay of its moving average rises from this to 1 by a cosine. */
const byolDecay = 0.996;

export const feeds: Readonly<Record<MethodName, Feed>> = {
  advcl: {
    paper: {},
    inputs: ({ eps, attack, clusters }) => ({
      clean: weakView,
      view1: advclView,
      view2: advclView,
      ...(attack && { start_cl: uniformStart(eps) }),
      ...(attack && clusters.length > 0 && { start_ce: uniformStart(eps) }),
      ...Object.fromEntries(clusters.map((k) => [`label_${headName(k).slice(3)}`, { kind: "pseudo-label", k }])),
    }),
  },
  simclr: { paper: large, inputs: () => ({ view1: aclView, view2: aclView }) },
  acl: { paper: large, inputs: ({ eps }) => ({ view1: aclView, view2: aclView, ...starts(eps) }) },
  rocl: {
    // 0.1 before the warm-up, fifteen times that after it.
    paper: { ...large, lr: 1.5, lrEnd: 0, warmupFrom: 0.1, attackSteps: 7, stepSize: 0.007, eps: 0.0314 },
    inputs: ({ eps }) => ({ view1: advclView, view2: advclView, start1: uniformStart(eps) }),
  },
  byorl: {
    // BYOL's rate and decay, scaled to the batch.
    paper: { ...large, lr: 0.4, lrEnd: 0, weightDecay: 1.5e-6 },
    inputs: ({ eps }) => ({ view1: aclView, view2: aclView, ...starts(eps) }),
    scalars: (_, __, progress) => ({ decay: 1 - ((1 - byolDecay) * (1 + Math.cos(Math.PI * progress))) / 2 }),
  },
  "ap-dpe": {
    paper: {
      lr: 0.1,
      lrEnd: 0,
      weightDecay: 5e-4,
      batch: 128,
      epochs: 150,
      schedule: "cosine",
      warmupEpochs: 0,
      clusters: [],
    },
    inputs: ({ eps, tasks }) => ({
      clean: weakView,
      ...(tasks.includes("rotation") &&
        Object.fromEntries([0, 1, 2, 3].map((turn) => [`start_turn${turn}`, uniformStart(eps)]))),
      ...(tasks.includes("jigsaw") && {
        start_jigsaw: uniformStart(eps),
        order: { kind: "random", below: quarterOrders.length },
      }),
      ...(tasks.includes("jigsaw3") && {
        start_jigsaw3: uniformStart(eps),
        order3: { kind: "random", below: ninthOrders.length },
      }),
      ...(tasks.includes("selfie") && {
        start_selfie: uniformStart(eps),
        masked: { kind: "random", below: maskings.length },
      }),
    }),
  },
  dynacl: {
    paper: { ...large, ema: 0.99 },
    inputs: ({ eps, epochs }, epoch) => {
      const view = dynaclView(dynaclStrength(epochs, epoch));
      return { view1: view, view2: view, ...starts(eps) };
    },
    scalars: ({ epochs }, epoch) => ({ weight: dynaclWeight(epochs, epoch) }),
  },
  deacl: {
    paper: {
      lr: 0.5,
      lrEnd: 0,
      weightDecay: 5e-4,
      batch: 256,
      epochs: 100,
      schedule: "cosine",
      warmupEpochs: 10,
      warmupFrom: 0,
      clusters: [],
    },
    inputs: ({ eps }) => ({ clean: weakView, start: uniformStart(eps) }),
  },
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
