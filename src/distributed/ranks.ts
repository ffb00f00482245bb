/** The ranks that this process belongs to: joined once, when a verb first trains. */
import type { Ranks } from "../../graphs/ops/ranks.ts";
import type { EngineRequest } from "../engine/engine.ts";
import { RequestError } from "../errors.ts";
import { alone, type Collective } from "./collective.ts";
import { launched } from "./launcher.ts";
import type { Mpi } from "./mpi.ts";
import { threadsHere } from "./threads.ts";

export interface LaunchSettings {
  readonly distributed: "auto" | "mpi" | "none";
  /** Seconds. */
  readonly rankTimeout: number;
  /** The shared library of MPI, where it is not found by itself. */
  readonly mpiLibrary?: string | undefined;
}

export interface BatchSettings {
  readonly batchNorm: "local" | "global";
  readonly negatives: "local" | "global";
}

let joined: Mpi | undefined;

/**
 * The ranks that were launched with this one; a process of its own where none were, which never loads MPI.
 *
 * @throws RequestError where MPI is missing or of another make
 */
export const joinRanks = async (settings: LaunchSettings): Promise<Collective> => {
  const { distributed, rankTimeout, mpiLibrary } = settings;
  const place = distributed === "none" ? undefined : launched();
  if (place === undefined && distributed === "mpi")
    throw new RequestError("--distributed mpi needs a launcher: start it as mpirun -np N npx advcl …");
  if (place === undefined) return threadsHere() ?? alone;
  const { joinMpi } = await import("./mpi.ts");
  joined ??= joinMpi(place, rankTimeout, mpiLibrary);
  return joined;
};

/** Ends all ranks where this one failed. */
export const abortRanks = (code: number): void => joined?.abort(code);

/** Waits for the other ranks at the end of all. */
export const leaveRanks = (): void => {
  joined?.finalize();
  joined = undefined;
};

const wordFor = (together: boolean | undefined): string => (together ? "replicas" : "ranks");

/**
 * Images of a rank's share of a batch, `least` at least: batch norm in training mode needs two. Throws a RequestError where it
 * does not come out whole.
 */
export const shareOf = (batch: number, { size, together }: Collective, least = 2): number => {
  if (batch % size !== 0 || batch / size < least)
    throw new RequestError(
      `a batch of ${batch} can't be shared by ${size} ${wordFor(together)} in equal parts of at least ${least}; choose --batch as a multiple of ${size}`,
    );
  return batch / size;
};

/** What a step is built for, and what the engine has to bring where ranks speak inside of it. */
export const sharedBatch = (
  { size, rank, within, together }: Collective,
  { batchNorm, negatives }: BatchSettings,
): { readonly ranks?: Ranks; readonly spoken?: Pick<EngineRequest, "ranks" | "speaking"> } => {
  if (size === 1) return {};
  const over = (which: "local" | "global") => together === true || which === "global";
  const ranks = { size, rank, batchNorm: over(batchNorm), negatives: over(negatives) };
  return { ranks, spoken: { ranks: within, speaking: ranks.batchNorm || ranks.negatives } };
};

/** Of several ranks, for the line that says what is trained. */
export const ranksText = (ranks: Ranks | undefined, { together }: Collective): string => {
  if (ranks === undefined) return "";
  const over = (global: boolean): string => (global ? "of all" : "of each by itself");
  const { size, batchNorm, negatives } = ranks;
  return `shared by ${size} ${wordFor(together)} (batch norm ${over(batchNorm)}, negatives ${over(negatives)}), `;
};
