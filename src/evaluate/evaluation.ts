/** Evaluation of a classifier under attacks: its stages in order, figures of each, a row for each image. */
import { RequestError } from "../errors.ts";
import { Interrupted } from "../verbs/verb.ts";
import { type AttackSpec, followsGradients, partStage } from "./attack-list.ts";
import { attackChunk, cleanChunk, inspectChunk } from "./chunks.ts";
import { wilsonInterval } from "./interval.ts";
import { Stages } from "./stages.ts";
import type { AttackFigures, EvaluationRequest, EvaluationResult, ImageOutcome, ImageRow } from "./types.ts";

/** Images that are looked at for signs of a model that attacks cannot judge. */
const INSPECTED = 128;

/** So many of them, spread evenly: the images of a folder stand class by class. */
const spread = (positions: readonly number[], count: number): readonly number[] =>
  positions.length <= count
    ? positions
    : Array.from({ length: count }, (_, i) => positions[Math.floor((i * positions.length) / count)]!);

/** Figures of a stage that was tried on some positions and left some. */
const figuresOf = (
  attack: AttackSpec,
  stage: string,
  left: readonly number[],
  tried: readonly number[],
  stages: Stages,
  { images: { count }, gradients }: EvaluationRequest,
): AttackFigures => {
  const found = stages.outcomes.get(stage);
  return {
    attack: attack.name,
    accuracy: left.length / count,
    interval: wilsonInterval(left.length, count),
    right: left.length,
    count,
    attacked: tried.length,
    queries: tried.reduce((sum, i) => sum + (found?.get(i)?.queries ?? 0), 0),
    ...(gradients && followsGradients(attack) && { gradients }),
  };
};

/** AutoAttack: each part on what the parts before it left. */
const runAutoattack = async (
  request: EvaluationRequest,
  whole: Extract<AttackSpec, { kind: "autoattack" }>,
  right: readonly number[],
  stages: Stages,
): Promise<AttackFigures> => {
  const { count } = request.images;
  let left = right;
  const figures: AttackFigures[] = [];
  for (const part of whole.parts) {
    const stage = partStage(part);
    const before = left;
    await stages.run(stage, before, (chunk, passed) => attackChunk(request, part, chunk, passed));
    left = stages.survivors(stage, before);
    figures.push(figuresOf(part, stage, left, before, stages, request));
    const broken = before.length - left.length;
    if (part.kind === "square" && broken >= Math.max(0.01 * count, 2))
      stages.warnings.push(
        `Square, which needs no gradients, broke ${broken} images that the gradient attacks did not: gradients may be masked`,
      );
  }
  const queries = figures.reduce((sum, part) => sum + part.queries, 0);
  const last = figuresOf(whole, "", left, right, stages, request);
  return { ...last, queries, parts: figures };
};

const rowsOf = ({ images }: EvaluationRequest, { outcomes }: Stages): ImageRow[] =>
  Array.from({ length: images.count }, (_, i) => {
    const attacks: Record<string, Omit<ImageOutcome, "i">> = {};
    let brokenBy: string | null = null;
    for (const [stage, found] of outcomes) {
      const outcome = found.get(i);
      if (outcome === undefined || stage === "inspection") continue;
      if (outcome.broken) brokenBy ??= stage;
      const { i: _, ...rest } = outcome;
      if (stage !== "clean") attacks[stage] = rest;
    }
    const prediction = outcomes.get("clean")?.get(i)?.prediction ?? -1;
    return { index: images.index[i]!, label: images.labels[i]!, prediction, brokenBy, attacks };
  });

/** Share of images without a finite gradient up to which the attacks on the others are worth their numbers. */
const UNJUDGED = 0.05;

/** Refuses attacks by gradients on a model that gives none which are finite: their numbers would only flatter it. */
const checkGradients = (attacks: readonly AttackSpec[], unjudged: number, count: number): void => {
  const blind = attacks.filter(followsGradients);
  if (blind.length === 0 || unjudged <= UNJUDGED * count) return;
  throw new RequestError(
    `the model's gradients are not finite for ${unjudged} of ${count} images, so ${blind.map(({ name }) => name).join(", ")} can't judge it; give --attacks clean,square, or mend the model (a square root or logarithm of 0, a division by 0)`,
  );
};

/** Runs the attacks in order. */
const evaluateStages = async (request: EvaluationRequest): Promise<EvaluationResult> => {
  const { images, attacks } = request;
  const stages = new Stages(request);
  const all = Array.from({ length: images.count }, (_, i) => i);
  await stages.run("clean", all, (chunk) => cleanChunk(request, chunk));
  const right = stages.survivors("clean", all);
  if (attacks.some(({ kind }) => kind !== "clean")) {
    const inspected = spread(right, INSPECTED);
    const { unjudged = 0 } = await stages.run("inspection", inspected, (chunk) => inspectChunk(request, chunk));
    checkGradients(attacks, unjudged, inspected.length);
  }
  const figures: AttackFigures[] = [];
  for (const attack of attacks) {
    const { name } = attack;
    if (attack.kind === "clean") figures.push(figuresOf(attack, name, right, all, stages, request));
    // The only image within a radius of 0 is the image itself.
    else if (request.settings.eps === 0) figures.push(figuresOf(attack, name, right, right, stages, request));
    else if (attack.kind === "autoattack") figures.push(await runAutoattack(request, attack, right, stages));
    else {
      await stages.run(name, right, (chunk, passed) => attackChunk(request, attack, chunk, passed));
      figures.push(figuresOf(attack, name, stages.survivors(name, right), right, stages, request));
    }
  }
  return { figures, rows: rowsOf(request, stages), warnings: stages.warnings };
};

/**
 * Runs the attacks in order.
 * @returns undefined where the signal came before the end: what is finished is in the log
 */
export const evaluateRobustness = async (request: EvaluationRequest): Promise<EvaluationResult | undefined> => {
  try {
    return await evaluateStages(request);
  } catch (error) {
    if (error instanceof Interrupted) return undefined;
    throw error;
  }
};
