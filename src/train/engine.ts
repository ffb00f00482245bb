/** The engine that a training runs on. */
import type { Collective } from "../distributed/collective.ts";
import { cacheGroups } from "../engine/cache-groups.ts";
import { groupsHint } from "../engine/core-latency.ts";
import { chooseEngine, type Engine, type EngineRequest } from "../engine/engine.ts";
import { RequestError } from "../errors.ts";
import type { VerbContext } from "../verbs/verb.ts";

/**
 * The engine of a training, and how it lowers graphs where that is left to the machine, for the run's config. On the CPU and
 * on CUDA a run that goes on takes what it was begun with, as far as this machine has it: another lowering rounds otherwise.
 */
export const trainingEngine = async (
  settings: EngineRequest,
  { begun, log }: VerbContext,
  { localRank, size, together }: Collective,
  spoken: Pick<EngineRequest, "ranks" | "speaking"> | undefined,
): Promise<{ readonly engine: Engine; readonly target: string | undefined }> => {
  const begunWith = (await begun())?.target;
  // Ranks of one machine would disturb each other.
  const timing = size === 1 ? log : undefined;
  const threads = together ? Math.max(1, Math.floor(settings.threads / size)) : settings.threads;
  const engine = await chooseEngine({ ...settings, threads, device: localRank, ...spoken, begunWith, timing });
  if (together && engine.provider !== "cpu")
    throw new RequestError("--replicas shares the cores of a CPU; leave it out on a GPU, or choose --provider cpu");
  const alone = size === 1 && threads > 1 && engine.provider === "cpu" && engine.name === "native";
  const hint = alone ? groupsHint(cacheGroups()) : undefined;
  if (hint !== undefined) log(hint);
  const left = settings.target === undefined && engine.provider !== "webgpu";
  return { engine, target: left ? engine.target.name : undefined };
};
