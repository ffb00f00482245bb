/**
 * Evaluation of a classifier under attacks. A stage is one attack on the images that are still right for it, in chunks of
 * a batch; a chunk, once done, is a line of the log, so that a killed evaluation goes on after its last whole chunk and
 * ends with the same numbers. Chunks are fixed by what came before them, never by where a run was cut.
 */

import type { Norm } from "../../graphs/attacks/threat-model.ts";
import { threatModel } from "../../graphs/attacks/threat-model.ts";
import { RequestError } from "../errors.ts";
import { apgd, apgdTargeted } from "./attacks/apgd.ts";
import { type Attack, type AttackedImage, attackRandom, isZero, predictionOf, type Query } from "./attacks/attack.ts";
import { type Ball, ball } from "./attacks/ball.ts";
import { fabTargeted } from "./attacks/fab.ts";
import type { Questions } from "./attacks/questions.ts";
import { runAttacks } from "./attacks/runner.ts";
import { squareAttack } from "./attacks/square.ts";
import { wilsonInterval } from "./interval.ts";

/** Settings of attacks; the defaults of the command are those of the papers. */
export interface AttackSettings {
  readonly norm: Norm;
  readonly eps: number;
  /** Of PGD. */
  readonly stepSize: number;
  /** Runs of each attack from other starts. */
  readonly restarts: number;
  /** Of APGD and FAB. */
  readonly iterations: number;
  /** Classes that the targeted attacks aim at. */
  readonly targets: number;
  /** Of the Square attack. */
  readonly queries: number;
  readonly seed: number;
}

/** The images of an evaluation, [count,C,H,W] in bytes or floats of [0, 1]. */
export interface EvaluatedImages {
  readonly count: number;
  readonly shape: readonly [channels: number, height: number, width: number];
  readonly labels: Int32Array;
  /** [count] place in the official dataset. */
  readonly index: Int32Array;
  /** Pixels of one image in [0, 1]. */
  pixels(position: number): Float32Array;
}

/** What a stage found for one image. */
export interface ImageOutcome {
  /** Position among the images of the evaluation. */
  readonly i: number;
  readonly broken: boolean;
  readonly prediction: number;
  /** Length of the perturbation. */
  readonly norm: number;
  readonly queries: number;
  /** Whether the first gradient was zero everywhere. */
  readonly zero?: boolean;
}

export interface ChunkRecord {
  readonly stage: string;
  readonly chunk: number;
  readonly images: readonly ImageOutcome[];
  /** What was noticed, by name. */
  readonly notes?: Readonly<Record<string, number>>;
}

/** Where finished chunks are kept. */
export interface EvaluationLog {
  /** What an earlier run finished, by `stage/chunk`. */
  readonly finished: ReadonlyMap<string, ChunkRecord>;
  append(record: ChunkRecord): void;
  /** Keeps the images of a chunk, called before `append`; `x` are [n,C,H,W]. */
  keep?(record: ChunkRecord, x: readonly Float32Array[]): Promise<void>;
}

/** Accuracy of one attack, or of a part of AutoAttack with what the parts before it left. */
export interface AttackFigures {
  readonly attack: string;
  readonly accuracy: number;
  /** 95 % interval (Wilson). */
  readonly interval: readonly [low: number, high: number];
  readonly right: number;
  readonly count: number;
  /** Images that it was tried on: those that were right before. */
  readonly attacked: number;
  readonly queries: number;
  readonly parts?: readonly AttackFigures[];
}

/** One row of the file of images. */
export interface ImageRow {
  readonly index: number;
  readonly label: number;
  /** Of the clean image. */
  readonly prediction: number;
  /** The first attack of the list that broke it (`autoattack/apgd-t`), null where none did; "clean" where it was wrong. */
  readonly brokenBy: string | null;
  readonly attacks: Readonly<Record<string, Omit<ImageOutcome, "i">>>;
}

export interface EvaluationResult {
  readonly figures: readonly AttackFigures[];
  readonly rows: readonly ImageRow[];
  readonly warnings: readonly string[];
}

export interface EvaluationRequest {
  readonly questions: Questions;
  readonly images: EvaluatedImages;
  readonly attacks: readonly AttackName[];
  readonly settings: AttackSettings;
  readonly log: EvaluationLog;
  readonly signal: AbortSignal;
  readonly progress: (update: EvaluationProgress) => void;
}

export interface EvaluationProgress {
  readonly stage: string;
  /** Images of the stage. */
  readonly of: number;
  /** Share of the whole work that is done, where no image breaks that still stands. */
  readonly share: number;
  /** Accuracy as it is known by now. */
  readonly accuracy: number;
  /** Images that the model has answered since the last update. */
  readonly images: number;
}

const simpleAttacks = ["clean", "fgsm", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square", "autoattack"] as const;
/** An attack of the list, or `pgd` with its number of steps: `pgd20`. */
export type AttackName = (typeof simpleAttacks)[number] | `pgd${number}`;

/** AutoAttack's `standard` (Croce & Hein 2020): each part runs on what the parts before it left. */
export const autoattackParts = ["apgd-ce", "apgd-t", "fab-t", "square"] as const;

/** Checks names of attacks; throws a RequestError that lists what there is. */
export const attackNames = (names: readonly string[]): AttackName[] => {
  for (const name of names)
    if (!(simpleAttacks as readonly string[]).includes(name) && !/^pgd[1-9]\d{0,4}$/.test(name))
      throw new RequestError(
        `--attacks names ${JSON.stringify(name)}; there are ${simpleAttacks.join(", ")} and pgdN (pgd20)`,
      );
  return [...new Set(names)] as AttackName[];
};

/** Classes that an attack needs. */
const fewestClasses: Readonly<Record<string, number>> = { "apgd-dlr": 3, "apgd-t": 4, autoattack: 4 };

/** Throws a RequestError where an attack cannot be run on a model of so many classes. */
export const checkClasses = (attacks: readonly AttackName[], classes: number): void => {
  for (const attack of attacks)
    if (classes < (fewestClasses[attack] ?? 2))
      throw new RequestError(
        `${attack} needs ${fewestClasses[attack]} classes (its loss compares that many logits), the model has ${classes}; leave it out of attacks`,
      );
};

/** Stages in their order. */
const stagesOf = (attacks: readonly AttackName[]): string[] => {
  const after = attacks.filter((attack) => attack !== "clean");
  const parts = after.flatMap((attack) =>
    attack === "autoattack" ? autoattackParts.map((part) => `autoattack/${part}`) : [attack],
  );
  return ["clean", ...(after.length > 0 ? ["inspection"] : []), ...parts];
};

/** Passes through the model that a stage makes for an image at most; one with a gradient counts as two. */
const passesOf = (stage: string, { restarts, iterations, targets, queries }: AttackSettings): number => {
  const attack = stage.replace("autoattack/", "");
  const runs: Readonly<Record<string, number>> = {
    clean: 1,
    inspection: 4,
    fgsm: 3,
    "apgd-ce": 2 * (iterations + 1) * restarts,
    "apgd-dlr": 2 * (iterations + 1) * restarts,
    "apgd-t": 2 * (iterations + 1) * restarts * targets,
    "fab-t": 3 * iterations * restarts * targets,
    square: (queries + 1) * restarts,
  };
  return runs[attack] ?? (2 * Number(attack.slice("pgd".length)) + 1) * restarts;
};

class Interrupted extends Error {}

/**
 * Runs the attacks in order.
 * @returns undefined where the signal came before the end: what is finished is in the log
 */
export const evaluateRobustness = async (request: EvaluationRequest): Promise<EvaluationResult | undefined> => {
  try {
    return await new Evaluation(request).run();
  } catch (error) {
    if (error instanceof Interrupted) return undefined;
    throw error;
  }
};

/** What a stage does to a chunk: outcomes and images. */
interface ChunkResult {
  readonly images: readonly ImageOutcome[];
  readonly x: readonly Float32Array[];
  readonly notes?: Readonly<Record<string, number>>;
}

/** Two logits of one image further apart than this, relative to the largest, are random. */
const REPEATABLE = 1e-4;

/** Images that are looked at for signs of a model that attacks cannot judge. */
const INSPECTED = 128;

/** So many of them, spread evenly: the images of a folder stand class by class. */
const spread = (positions: readonly number[], count: number): readonly number[] =>
  positions.length <= count
    ? positions
    : Array.from({ length: count }, (_, i) => positions[Math.floor((i * positions.length) / count)] as number);

class Evaluation {
  private readonly request: EvaluationRequest;
  private readonly around: Ball;
  private readonly warnings: string[] = [];
  /** What each stage found, by image. */
  private readonly outcomes = new Map<string, Map<number, ImageOutcome>>();
  /** Passes that finished chunks count for, and the stages to come with those of an image. */
  private spent = 0;
  private readonly plan: readonly (readonly [stage: string, passes: number])[];

  constructor(request: EvaluationRequest) {
    this.request = request;
    this.around = ball(request.settings.norm, request.settings.eps);
    this.plan = stagesOf(request.attacks).map((stage) => [stage, passesOf(stage, request.settings)]);
  }

  async run(): Promise<EvaluationResult> {
    const { images, attacks } = this.request;
    const all = Array.from({ length: images.count }, (_, i) => i);
    await this.stage("clean", all, (chunk) => this.clean(chunk));
    const right = this.survivors("clean", all);
    if (attacks.some((attack) => attack !== "clean")) await this.inspect(right);
    const figures: AttackFigures[] = [];
    for (const attack of attacks) {
      if (attack === "clean") figures.push(this.figuresOf("clean", right, all));
      else if (attack === "autoattack") figures.push(await this.autoattack(right));
      else {
        await this.stage(attack, right, (chunk, asked) => this.attack(attack, chunk, asked));
        figures.push(this.figuresOf(attack, this.survivors(attack, right), right));
      }
    }
    return { figures, rows: this.rows(), warnings: this.warnings };
  }

  private async autoattack(right: readonly number[]): Promise<AttackFigures> {
    let left = right;
    const parts: AttackFigures[] = [];
    for (const part of autoattackParts) {
      const stage = `autoattack/${part}`;
      const before = left;
      await this.stage(stage, before, (chunk, asked) => this.attack(part, chunk, asked));
      left = this.survivors(stage, before);
      parts.push(this.figuresOf(part, left, before, stage));
      if (part === "square" && before.length - left.length >= Math.max(0.01 * this.request.images.count, 2))
        this.warn(
          `Square, which needs no gradients, broke ${before.length - left.length} images that the gradient attacks did not: gradients may be masked`,
        );
    }
    const last = parts.at(-1) as AttackFigures;
    return {
      ...last,
      attack: "autoattack",
      attacked: right.length,
      queries: parts.reduce((n, p) => n + p.queries, 0),
      parts,
    };
  }

  /** Runs a stage over positions, chunk by chunk; those that the log holds are taken from it. */
  private async stage(
    name: string,
    positions: readonly number[],
    run: (chunk: readonly number[], asked: (passes: number, images: number) => void) => Promise<ChunkResult>,
  ): Promise<void> {
    const { log, questions, signal } = this.request;
    const found = new Map<number, ImageOutcome>();
    this.outcomes.set(name, found);
    const notes: Record<string, number> = {};
    const each = this.passes(name);
    let outlook = this.outlook(name, positions, found, 0);
    const report = (passes: number, images: number) =>
      this.request.progress({
        stage: name,
        of: positions.length,
        share: (this.spent + passes) / (this.spent + outlook.ahead),
        accuracy: outlook.accuracy,
        images,
      });
    for (let begin = 0, chunk = 0; begin < positions.length; begin += questions.batch, chunk++) {
      const members = positions.slice(begin, begin + questions.batch);
      let record = log.finished.get(`${name}/${chunk}`);
      if (record === undefined) {
        if (signal.aborted) throw new Interrupted();
        let passes = 0;
        const {
          images,
          x,
          notes: noticed,
        } = await run(members, (more, answered) => {
          passes += more;
          report(Math.min(passes, members.length * each), answered);
        });
        record = { stage: name, chunk, images, ...(noticed && { notes: noticed }) };
        await log.keep?.(record, x);
        log.append(record);
      } else if (record.images.map(({ i }) => i).join() !== members.join())
        throw new RequestError(
          `the log of finished batches does not fit this evaluation (${name}); choose another folder`,
        );
      for (const outcome of record.images) found.set(outcome.i, outcome);
      for (const [note, count] of Object.entries(record.notes ?? {})) notes[note] = (notes[note] ?? 0) + count;
      this.spent += members.length * each;
      outlook = this.outlook(name, positions, found, begin + members.length);
      report(0, members.length);
    }
    this.explain(name, notes, positions.length);
  }

  private passes(stage: string): number {
    return this.plan.find(([name]) => name === stage)?.[1] ?? 0;
  }

  /** The passes still to come, where no image breaks that still stands, and the accuracy by now: `done` images of the stage are. */
  private outlook(
    stage: string,
    positions: readonly number[],
    found: ReadonlyMap<number, ImageOutcome>,
    done: number,
  ): { readonly ahead: number; readonly accuracy: number } {
    const { count } = this.request.images;
    const broken = [...found.values()].filter((o) => o.broken).length;
    const standing = positions.length - broken;
    const right =
      stage === "clean" ? standing : this.survivors("clean", [...this.outcomes.get("clean")!.keys()]).length;
    const inAutoattack = stage.startsWith("autoattack/");
    const later = this.plan.slice(this.plan.findIndex(([name]) => name === stage) + 1);
    const ahead = later.reduce(
      (sum, [name, each]) => sum + each * (inAutoattack && name.startsWith("autoattack/") ? standing : right),
      (positions.length - done) * this.passes(stage),
    );
    return { ahead, accuracy: stage === "clean" ? (done - broken) / done : standing / count };
  }

  private image(position: number): AttackedImage {
    const { images } = this.request;
    const [label, index] = [images.labels[position] as number, images.index[position] as number];
    return { clean: images.pixels(position), shape: images.shape, label, index };
  }

  private async clean(chunk: readonly number[]): Promise<ChunkResult> {
    const images = chunk.map((i) => this.image(i));
    const answers = await this.request.questions.answer(images.map(({ clean }) => ({ kind: "logits", x: clean })));
    const infinite = answers.filter(({ logits }) => !logits.every(Number.isFinite)).length;
    return {
      images: chunk.map((i, k) => {
        const prediction = predictionOf(answers[k]!.logits);
        return { i, broken: prediction !== images[k]!.label, prediction, norm: 0, queries: 1 };
      }),
      x: images.map(({ clean }) => clean),
      ...(infinite > 0 && { notes: { infinite } }),
    };
  }

  /** Signs of a model that gradient attacks cannot judge: random logits, probabilities, no gradient. */
  private async inspect(right: readonly number[]): Promise<void> {
    const { questions } = this.request;
    await this.stage("inspection", spread(right, INSPECTED), async (chunk) => {
      const images = chunk.map((i) => this.image(i));
      const asked = images.map(({ clean }): Query => ({ kind: "logits", x: clean }));
      const [first, second] = [await questions.answer(asked), await questions.answer(asked)];
      const notes: Record<string, number> = { random: 0, probabilities: 0, zero: 0, infinite: 0 };
      const gradients = await questions.answer(
        images.map(({ clean, label }) => ({ kind: "ce", x: clean, label, target: label })),
      );
      first.forEach(({ logits }, k) => {
        const scale = logits.reduce((most, v) => Math.max(most, Math.abs(v)), 1e-12);
        if (logits.some((v, c) => Math.abs(v - (second[k]!.logits[c] as number)) > REPEATABLE * scale)) notes.random!++;
        const sum = logits.reduce((a, b) => a + b, 0);
        if (logits.every((v) => v >= 0 && v <= 1) && Math.abs(sum - 1) < 1e-3) notes.probabilities!++;
        const { gradient } = gradients[k]!;
        if (isZero(gradient)) notes.zero!++;
        if (!gradient.every(Number.isFinite)) notes.infinite!++;
      });
      const outcomes = chunk.map((i, k) => ({ i, broken: false, prediction: images[k]!.label, norm: 0, queries: 3 }));
      return { images: outcomes, x: [], notes };
    });
  }

  private async attack(
    name: Exclude<AttackName, "clean" | "autoattack">,
    chunk: readonly number[],
    asked: (passes: number, images: number) => void,
  ): Promise<ChunkResult> {
    const images = chunk.map((i) => this.image(i));
    const results =
      name.startsWith("pgd") || name === "fgsm"
        ? await this.pgd(name, images)
        : await this.perImage(name, images, asked);
    const notes: Record<string, number> = { outside: 0, zero: 0, mistaken: 0 };
    const x = results.map((result) => result.x);
    // What an attack says is looked at again: an image it calls broken must be so, and allowed.
    const again = await this.request.questions.answer(x.map((image) => ({ kind: "logits", x: image })));
    const outcomes = results.map((result, k): ImageOutcome => {
      const { clean, label } = images[k]!;
      const norm = this.around.distance(result.x, clean);
      const inside = norm <= this.around.eps * (1 + 1e-4) + 1e-6 && result.x.every((v) => v >= 0 && v <= 1);
      if (!inside) notes.outside!++;
      if (result.zeroGradient) notes.zero!++;
      if (result.broken && predictionOf(again[k]!.logits) === label) notes.mistaken!++;
      const { prediction, queries, zeroGradient: zero } = result;
      return { i: chunk[k]!, broken: result.broken && inside, prediction, norm, queries, ...(zero && { zero }) };
    });
    return { images: outcomes, x, notes };
  }

  private perImage(name: string, images: readonly AttackedImage[], asked: (passes: number, images: number) => void) {
    const { settings, questions, signal } = this.request;
    const { seed, restarts, iterations, targets, queries } = settings;
    const start: Readonly<Record<string, (image: AttackedImage) => Attack>> = {
      "apgd-ce": (image) => apgd(image, this.around, "ce", { seed, restarts, iterations }),
      "apgd-dlr": (image) => apgd(image, this.around, "dlr", { seed, restarts, iterations }),
      "apgd-t": (image) => apgdTargeted(image, this.around, { seed, restarts, iterations, targets }),
      "fab-t": (image) => fabTargeted(image, this.around, { seed, restarts, iterations, targets }),
      square: (image) => squareAttack(image, this.around, { seed, restarts, queries }),
    };
    return runAttacks(
      images.map((image) => start[name]!(image)),
      questions,
      async (kind, answered) => {
        asked((kind === "logits" ? 1 : 2) * answered, answered);
        // Lets signals in: runs of the model block the event loop.
        await new Promise((done) => setImmediate(done));
        if (signal.aborted) throw new Interrupted();
      },
    );
  }

  private async pgd(name: string, images: readonly AttackedImage[]) {
    const { settings, questions } = this.request;
    const fgsm = name === "fgsm";
    const steps = fgsm ? 1 : Number(name.slice(3));
    const threat = threatModel(settings.norm, settings.eps);
    const options = { threat, steps, stepSize: fgsm ? settings.eps : settings.stepSize };
    const length = images[0]!.clean.length;
    const packed = (rows: readonly Float32Array[]): Float32Array => {
      const out = new Float32Array(rows.length * length);
      rows.forEach((row, k) => {
        out.set(row, k * length);
      });
      return out;
    };
    const clean = packed(images.map((image) => image.clean));
    const labels = images.map(({ label }) => label);
    const best = images.map(({ clean: x, label }) => ({ broken: false, x, prediction: label, queries: 0 }));
    for (let round = 0; round < (fgsm ? 1 : settings.restarts); round++) {
      const starts = images.map((image) =>
        fgsm ? image.clean : this.around.startInside(image.clean, attackRandom(settings.seed, image, "pgd", round)),
      );
      const { x, logits } = await questions.pgd(options, clean, packed(starts), labels);
      const classes = logits.length / images.length;
      for (const [k, held] of best.entries()) {
        if (held.broken) continue;
        const prediction = predictionOf(logits.subarray(k * classes, (k + 1) * classes));
        const found = x.slice(k * length, (k + 1) * length);
        best[k] = { broken: prediction !== labels[k], x: found, prediction, queries: held.queries + steps + 1 };
      }
      if (best.every(({ broken }) => broken)) break;
    }
    return best.map((held): typeof held & { zeroGradient?: boolean } => held);
  }

  private survivors(stage: string, positions: readonly number[]): number[] {
    const found = this.outcomes.get(stage);
    return positions.filter((i) => found?.get(i)?.broken === false);
  }

  private figuresOf(attack: string, left: readonly number[], tried: readonly number[], stage = attack): AttackFigures {
    const { count } = this.request.images;
    const found = this.outcomes.get(stage) as Map<number, ImageOutcome>;
    const queries = tried.reduce((n, i) => n + (found.get(i)?.queries ?? 0), 0);
    const accuracy = left.length / count;
    return {
      attack,
      accuracy,
      interval: wilsonInterval(left.length, count),
      right: left.length,
      count,
      attacked: tried.length,
      queries,
    };
  }

  private warn(message: string): void {
    this.warnings.push(message);
  }

  private explain(stage: string, notes: Readonly<Record<string, number>>, count: number): void {
    const { random = 0, probabilities = 0, zero = 0, infinite = 0, outside = 0, mistaken = 0 } = notes;
    const share = (n: number) => `${n} of ${count} images`;
    if (random > 0)
      this.warn(
        `the model's output is random (${share(random)} got other logits when asked again): attacks on it mean little without averaging`,
      );
    if (probabilities > 0 && probabilities === count)
      this.warn("the model seems to return probabilities: attacks need the logits before the softmax");
    if (zero > 0) this.warn(`${stage}: the gradient is zero for ${share(zero)}: it may be masked`);
    if (infinite > 0)
      this.warn(
        `the model's ${stage === "clean" ? "logits" : "gradients"} are not finite for ${share(infinite)}: gradient attacks cannot judge it`,
      );
    if (outside > 0) this.warn(`${stage}: ${share(outside)} left the ball or the box and do not count as broken`);
    if (mistaken > 0) this.warn(`${stage}: ${share(mistaken)} were called broken but are right when asked again`);
  }

  private rows(): ImageRow[] {
    const { images } = this.request;
    return Array.from({ length: images.count }, (_, i) => {
      const attacks: Record<string, Omit<ImageOutcome, "i">> = {};
      let brokenBy: string | null = null;
      for (const [stage, found] of this.outcomes) {
        const outcome = found.get(i);
        if (outcome === undefined || stage === "inspection") continue;
        if (outcome.broken) brokenBy ??= stage;
        const { i: _, ...rest } = outcome;
        if (stage !== "clean") attacks[stage] = rest;
      }
      const prediction = this.outcomes.get("clean")?.get(i)?.prediction ?? -1;
      return { index: images.index[i] as number, label: images.labels[i] as number, prediction, brokenBy, attacks };
    });
  }
}
