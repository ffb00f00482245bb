/**
 * What an attack is: a generator for one image that asks the model oracle and gets answers. All state is per image, as
 * the papers have it; the runner (runner.ts) puts the queries of many images into one batch, and an image that is broken
 * asks no more. What an attack finds is fixed by the model, the image and the seed.
 */
import type { AttackLoss } from "../../../graphs/steps/evaluate.ts";
import { type Random, random } from "../../data/random.ts";
import type { AttackSettings } from "../types.ts";
import type { Ball } from "./ball.ts";

export interface AttackedImage {
  /** [C,H,W] pixels in [0, 1]. */
  readonly clean: Float32Array;
  readonly shape: readonly [channels: number, height: number, width: number];
  readonly label: number;
  /** Place in the official dataset: with the seed it keys all random numbers. */
  readonly index: number;
}

/** A loss that can be asked for: one of ours, or that of a plugin by its name. */
export type LossKind = AttackLoss | `own:${string}`;

/**
 * Logits of x, and for a loss its value and gradient at x too. `ahead` are the images that come next should the answer change
 * nothing: where there is room in the batch some of them, the first ones, are answered as well.
 */
export type Query =
  | { readonly kind: "logits"; readonly x: Float32Array; readonly ahead?: Iterator<Float32Array> }
  | { readonly kind: LossKind; readonly x: Float32Array; readonly label: number; readonly target: number };

/** Views of a batch's results: to be read, not written. */
export interface Answer {
  readonly logits: Float32Array;
  /** Of a query for a loss; otherwise NaN and empty. */
  readonly loss: number;
  /** What of it is not finite is 0 here. */
  readonly gradient: Float32Array;
  /** Whether some of the gradient was not finite; left out where all was. */
  readonly infinite?: boolean;
  /** Of images that the query offered ahead. */
  readonly ahead?: readonly { readonly x: Float32Array; readonly logits: Float32Array }[];
}

export interface AttackResult {
  /** Whether x, in the ball and the box, is taken for another class. */
  readonly broken: boolean;
  /** The adversarial image; where none was found, the most promising one. */
  readonly x: Float32Array;
  /** What the model takes x for. */
  readonly prediction: number;
  /** Forward passes spent on this image. */
  readonly queries: number;
  /** Whether the first gradient was zero in every pixel: a sign of masked gradients. */
  readonly zeroGradient?: boolean;
}

/** One go at an image, from one start or at one class. */
export type Attempt = Generator<Query, AttackResult, Answer>;

/** Goes at an image in order: the first that breaks it counts, else the last. None depends on another. */
export interface Attempts {
  readonly attempts: readonly Attempt[];
  /** Spent before the first. */
  readonly queries: number;
}

/** The attempts to make; or what has to be asked first, with a result or the attempts at its end. */
export type Attack = Attempts | Generator<Query, AttackResult | Attempts, Answer>;

/** An attack that a plugin brings. */
export interface OwnAttack {
  /** As `evaluate --attacks` takes it. */
  readonly name: string;
  /** Classes that the model must have (default 2). */
  readonly classes?: number;
  /** Whether it follows gradients (default true): models without finite ones are refused then. */
  readonly gradients?: boolean;
  /** Passes through the model for an image at most, one with a gradient counting as two: tells the time left (default 200). */
  passes?(settings: AttackSettings): number;
  attack(image: AttackedImage, ball: Ball, settings: AttackSettings): Attack;
}

/** All classes but the label, the largest logit first. */
export const rankedTargets = (logits: Float32Array, label: number): number[] =>
  Array.from(logits.keys())
    .filter((k) => k !== label)
    .sort((a, b) => logits[b]! - logits[a]! || a - b);

export const isZero = (values: Float32Array): boolean => values.every((v) => v === 0);

/** Random numbers of one attack on one image; `round` counts restarts and targets. */
export const attackRandom = (seed: number, image: AttackedImage, attack: string, round = 0): Random =>
  random(seed, round, image.index, `attack/${attack}`);
