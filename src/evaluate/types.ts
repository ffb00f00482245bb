/** What an evaluation is asked, what it finds, and where finished batches of it are kept. */
import type { Norm } from "../../graphs/attacks/threat-model.ts";
import type { Collective } from "../distributed/collective.ts";
import type { AttackSpec } from "./attack-list.ts";
import type { Oracle } from "./attacks/oracle.ts";

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
  /** Whose gradients the attack followed, where not the model's own. */
  readonly gradients?: "float32 shadow";
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
  readonly oracle: Oracle;
  readonly images: EvaluatedImages;
  readonly attacks: readonly AttackSpec[];
  readonly settings: AttackSettings;
  /** Whose gradients the oracle gives, where not the model's own. */
  readonly gradients?: AttackFigures["gradients"];
  readonly log: EvaluationLog;
  readonly signal: AbortSignal;
  /** Processes that share the work (default: this one does all); their logs begin the same. */
  readonly ranks?: Collective;
  readonly progress: (update: EvaluationProgress) => void;
}

export interface EvaluationProgress {
  readonly stage: string;
  /** Images of the stage. */
  readonly total: number;
  /** Share of the whole work that is done, where no image breaks that still stands. */
  readonly share: number;
  /** Accuracy as it is known by now. */
  readonly accuracy: number;
  /** Images that the model has answered since the last update. */
  readonly images: number;
}
