/** How many threads share the batches of a verb: as asked, or as the cores at hand want it. */
import type { Launched } from "../distributed/launcher.ts";
import { coresApart, replicasFor } from "../engine/core-latency.ts";
import { providerFor } from "../engine/engine.ts";
import { missingApi } from "../engine/native/api.ts";
import type { Provider } from "../engine/session-contract.ts";
import type { RunConfig } from "../runs/config.ts";
import type { SettingValue } from "../settings/name.ts";

/** The most replicas up to `most` that share a batch, or each of its parts, equally; batch norm needs two images each. */
export const equalShares = (most: number, batch: number, parts = 1): number => {
  const images = batch / parts;
  for (let count = most; count > 1; count--) if (images % count === 0 && images / count >= 2) return count;
  return 1;
};

/** What `auto` comes to with these settings, and why: what the run was begun with, else what the cores want. */
export const chooseReplicas = async (
  settings: Readonly<Record<string, SettingValue>>,
  place: Launched | undefined,
  begun: RunConfig | undefined,
): Promise<{ readonly count: number; readonly why: string }> => {
  if (place !== undefined) return { count: 1, why: `a launcher started ${place.size} processes` };
  const before = begun?.settings.replicas;
  if (typeof before === "number") return { count: before, why: "as the run began" };
  const { threads, batch, accumulate, engine } = settings;
  const { provider } = await providerFor(settings.provider as Provider | "auto", Number(threads));
  if (provider !== "cpu") return { count: 1, why: `on ${provider}` };
  if (engine === "binding" || missingApi() !== undefined) return { count: 1, why: "they need --engine native" };
  const { count: wanted, why } = replicasFor(await coresApart());
  const count = equalShares(Math.min(wanted, Number(threads)), Number(batch), Number(accumulate ?? 1));
  return { count, why: count < wanted ? `${why}; threads: ${threads}, batch: ${batch}` : why };
};
