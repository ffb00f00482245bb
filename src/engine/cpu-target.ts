/** How graphs are lowered for the CPU where nothing else is asked for, and the blocks of its processor. */
import { blockedName, readBlockedName } from "../../graphs/targets/cpu/placing.ts";
import { RequestError } from "../errors.ts";
import { blockSize } from "./block.ts";
import type { EngineRequest } from "./engine.ts";
import { knownLayouts, trainingLayouts } from "./layouts/choice.ts";
import { bfloat16Target, isBfloat16Target, type Precision } from "./precision.ts";
import { isTargetName } from "./targets.ts";

/** The processor's blocks; throws a RequestError where a target is for others. */
export const blockFor = async (named: string | undefined): Promise<number | undefined> => {
  const block = await blockSize();
  const wanted = named === undefined ? undefined : readBlockedName(named);
  if (wanted !== undefined && wanted.block !== block)
    throw new RequestError(
      `--target ${named} is for processors with blocks of other channels than this one (${block ?? "none"}); leave --target out`,
    );
  return block;
};

/** What a run was begun with, where it is the CPU's and this processor has the blocks that it may name. */
const again = (block: number | undefined, begunWith: string | undefined): string | undefined => {
  if (begunWith === undefined || !/^cpu\b/.test(begunWith) || !isTargetName(begunWith)) return undefined;
  const wanted = readBlockedName(begunWith);
  return wanted === undefined || wanted.block === block ? begunWith : undefined;
};

/** The target of a request that names none: what its run was begun with, else what this processor does best. */
export const cpuTargetName = async (
  { threads, begunWith, timing }: EngineRequest,
  precision: Precision,
  block: number | undefined,
): Promise<string> => {
  if (precision === "bfloat16")
    return begunWith !== undefined && isBfloat16Target(begunWith) ? begunWith : bfloat16Target(threads);
  const pinned = again(block, begunWith);
  if (pinned !== undefined || block === undefined) return pinned ?? "cpu";
  const { limits } = await (timing ? trainingLayouts(block, threads, timing) : knownLayouts(block));
  return blockedName(block, limits);
};
