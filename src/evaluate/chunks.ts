/** What is done with the images of a chunk: clean predictions, inspection, attacks. */

import { predictionOf } from "../models/prediction.ts";
import { areProbabilities } from "../models/probabilities.ts";
import { Interrupted } from "../verbs/verb.ts";
import type { SingleAttack } from "./attack-list.ts";
import { type AttackedImage, type AttackResult, attackRandom, isZero, type Query } from "./attacks/attack.ts";
import { attackOf } from "./attacks/attack-of.ts";
import { type Ball, ball } from "./attacks/ball.ts";
import { packed } from "./attacks/rows.ts";
import { type AfterRun, dealOut, runQueue } from "./attacks/runner.ts";
import type { ChunkResult } from "./stages.ts";
import type { EvaluatedImages, EvaluationRequest, ImageOutcome } from "./types.ts";

/** Two logits of one image further apart than this, relative to the largest, are random. */
const REPEATABLE = 1e-4;

const imageAt = ({ labels, index, pixels, shape }: EvaluatedImages, position: number): AttackedImage => ({
  clean: pixels(position),
  shape,
  label: labels[position]!,
  index: index[position]!,
});

const logitsOf = (x: Float32Array): Query => ({ kind: "logits", x });

/** Predictions of clean images. */
export const cleanChunk = async (
  { images, oracle }: EvaluationRequest,
  chunk: readonly number[],
): Promise<ChunkResult> => {
  const given = chunk.map((i) => imageAt(images, i));
  const answers = await oracle.answer(given.map(({ clean }) => logitsOf(clean)));
  const infinite = answers.filter(({ logits }) => !logits.every(Number.isFinite)).length;
  const outcomes = chunk.map((i, k): ImageOutcome => {
    const prediction = predictionOf(answers[k]?.logits ?? new Float32Array());
    return { i, broken: prediction !== given[k]?.label, prediction, norm: 0, queries: 1 };
  });
  return { images: outcomes, x: given.map(({ clean }) => clean), ...(infinite > 0 && { notes: { infinite } }) };
};

const isRandom = (logits: Float32Array, again: Float32Array): boolean => {
  const scale = logits.reduce((largest, v) => Math.max(largest, Math.abs(v)), 1e-12);
  return logits.some((v, c) => Math.abs(v - again[c]!) > REPEATABLE * scale);
};

/** Signs of a model that gradient attacks cannot judge: random logits, probabilities, no gradient. */
export const inspectChunk = async (
  { images, oracle }: EvaluationRequest,
  chunk: readonly number[],
): Promise<ChunkResult> => {
  const given = chunk.map((i) => imageAt(images, i));
  const asked = given.map(({ clean }) => logitsOf(clean));
  const [first, second] = [await oracle.answer(asked), await oracle.answer(asked)];
  const gradients = await oracle.answer(
    given.map(({ clean, label }) => ({ kind: "ce", x: clean, label, target: label })),
  );
  const counting = (is: (k: number) => boolean): number => chunk.filter((_, k) => is(k)).length;
  const logits = (k: number): Float32Array => first[k]?.logits ?? new Float32Array();
  const gradient = (k: number): Float32Array => gradients[k]?.gradient ?? new Float32Array();
  const notes = {
    random: counting((k) => isRandom(logits(k), second[k]?.logits ?? new Float32Array())),
    probabilities: counting((k) => areProbabilities(logits(k))),
    zero: counting((k) => isZero(gradient(k))),
    infinite: counting((k) => gradients[k]?.infinite === true),
    unjudged: counting((k) => gradients[k]?.infinite === true && isZero(gradient(k))),
  };
  const outcomes = chunk.map((i, k) => ({ i, broken: false, prediction: given[k]?.label ?? -1, norm: 0, queries: 3 }));
  return { images: outcomes, x: [], notes };
};

/** Attacks a chunk. What an attack says is looked at again: an image it calls broken must be so, and allowed. */
export const attackChunk = async (
  request: EvaluationRequest,
  attack: SingleAttack,
  chunk: readonly number[],
  passed: (passes: number, images: number) => void,
): Promise<ChunkResult> => {
  const { images, oracle, settings } = request;
  const around = ball(settings.norm, settings.eps);
  const given = chunk.map((i) => imageAt(images, i));
  const results =
    attack.kind === "pgd" || attack.kind === "fgsm"
      ? await attackByPgd(request, attack, around, given)
      : await attackEach(request, attack, around, given, passed);
  const notes = { outside: 0, zero: 0, mistaken: 0 };
  const x = results.map((result) => result.x);
  const again = await oracle.answer(x.map(logitsOf));
  const outcomes = results.map((result, k): ImageOutcome => {
    const { clean, label } = given[k] as AttackedImage;
    const norm = around.distance(result.x, clean);
    const inside = norm <= around.eps * (1 + 1e-4) + 1e-6 && result.x.every((v) => v >= 0 && v <= 1);
    if (!inside) notes.outside++;
    if (result.zeroGradient) notes.zero++;
    if (result.broken && predictionOf(again[k]?.logits ?? new Float32Array()) === label) notes.mistaken++;
    const { prediction, queries, zeroGradient: zero } = result;
    return { i: chunk[k]!, broken: result.broken && inside, prediction, norm, queries, ...(zero && { zero }) };
  });
  return { images: outcomes, x, notes };
};

/** Attacks each image by itself: ours in the threads of the replicas, where there are such. */
const attackEach = (
  { settings, oracle, signal }: EvaluationRequest,
  attack: Exclude<SingleAttack, { kind: "pgd" | "fgsm" }>,
  around: Ball,
  images: readonly AttackedImage[],
  passed: (passes: number, images: number) => void,
): Promise<AttackResult[]> => {
  const afterRun: AfterRun = async (kind, answered) => {
    passed((kind === "logits" ? 1 : 2) * answered, answered);
    // Lets signals in: runs of the model block the event loop.
    await new Promise((done) => setImmediate(done));
    if (signal.aborted) throw new Interrupted("");
  };
  return dealOut(images, oracle, (share, replica) => {
    if (attack.kind !== "own" && replica.attack !== undefined)
      return replica.attack(attack, share, settings, { passed, signal });
    const attacks = share.map((image) =>
      attack.kind === "own" ? attack.own.attack(image, around, settings) : attackOf(attack, image, around, settings),
    );
    return runQueue(attacks, replica, afterRun);
  });
};

/** PGD and FGSM: all images in one run of a model that has the steps in it. */
const attackByPgd = async (
  { settings, oracle }: EvaluationRequest,
  attack: Extract<SingleAttack, { kind: "pgd" | "fgsm" }>,
  around: Ball,
  images: readonly AttackedImage[],
): Promise<AttackResult[]> => {
  const { norm, eps, stepSize, restarts, seed } = settings;
  const fast = attack.kind === "fgsm";
  const options = { norm, eps, ...(fast ? { steps: 1, stepSize: eps } : { steps: attack.steps, stepSize }) };
  const length = images[0]?.clean.length ?? 0;
  const clean = packed(images.map((image) => image.clean));
  const labels = images.map(({ label }) => label);
  const best: AttackResult[] = images.map(({ clean: x, label }) => ({
    broken: false,
    x,
    prediction: label,
    queries: 0,
  }));
  for (let round = 0; round < (fast ? 1 : restarts); round++) {
    const starts = images.map((image) =>
      fast ? image.clean : around.startInside(image.clean, attackRandom(seed, image, "pgd", round)),
    );
    const { x, logits } = await oracle.pgd(options, clean, packed(starts), labels);
    const classes = logits.length / images.length;
    for (const [k, held] of best.entries()) {
      if (held.broken) continue;
      const prediction = predictionOf(logits.subarray(k * classes, (k + 1) * classes));
      const found = x.slice(k * length, (k + 1) * length);
      const queries = held.queries + options.steps + 1;
      best[k] = { broken: prediction !== labels[k], x: found, prediction, queries };
    }
    if (best.every(({ broken }) => broken)) break;
  }
  return best;
};
