/** The encoders of a comparison, each pretrained once: those that are compared, and what teaches them. */
import { join } from "node:path";
import { cluster } from "../cluster/cluster.ts";
import type { Given } from "../settings/spec.ts";
import { pretrain } from "../train/pretrain.ts";
import type { pretrainSettings } from "../train/pretrain-settings.ts";
import type { Settings } from "./compare-settings.ts";
import { encoderFolder } from "./folders.ts";
import { type Pipeline, resuming } from "./pipeline.ts";
import { parseVariant, type Variant, wantsClusters } from "./variant.ts";

/** Settings of every part. */
export const commonOf = ({ provider, threads, data, skipBroken }: Settings) => ({
  provider,
  threads,
  data,
  skipBroken,
});

/** A paper's rates at the comparison's batch and epochs. */
const scaledRates = ({ definition: { paper } }: Variant, { batch, epochs, scaleRates }: Settings) => {
  if (!scaleRates) return {};
  const scale = batch / paper.batch;
  const warmup = paper.warmupEpochs < 0 ? (paper.batch > 256 ? 10 : 0) : paper.warmupEpochs;
  return {
    lr: paper.lr * scale,
    warmupFrom: paper.warmupFrom * scale,
    warmupEpochs: Math.round((warmup * epochs) / paper.epochs),
  };
};

/** The encoder that teaches others: the comparison's own simclr run, or one more where it compares none. */
const teacherOf = ({ methods }: Settings): Variant =>
  parseVariant(methods.find((text) => text.split("/")[0]?.trim() === "simclr") ?? "simclr");

/** The folder of a pretrained encoder. */
export const encoderOf = async (
  variant: Variant,
  seed: number,
  settings: Settings,
  pipeline: Pipeline,
): Promise<string> => {
  const { dataset, limit, size, arch, depth, width, epochs, batch, attackSteps, workers, target } = settings;
  const name = encoderFolder(variant.name, seed);
  const out = join(settings.out, name);
  const clustered = wantsClusters(variant);
  await pipeline.once(name, pretrain, async () => {
    const given = {
      ...{
        ...commonOf(settings),
        method: variant.method,
        plugin: settings.plugin.length > 0 ? settings.plugin : undefined,
        dataset,
        limit,
        size,
        arch,
        depth,
        width,
        epochs,
        batch,
        seed,
      },
      ...{ attackSteps, workers, target, knnEvery: 0, ...scaledRates(variant, settings) },
      ...(clustered && { clusters: settings.clusters }),
      ...(clustered && { pseudoLabels: await labelsOf(seed, variant, settings, pipeline) }),
      ...(variant.definition.given && {
        teacher: await encoderOf(teacherOf(settings), seed, settings, pipeline),
      }),
    };
    // A variant's own settings are texts, which the verb reads and checks.
    return { ...given, ...variant.settings, out, ...resuming(out) } as Given<typeof pretrainSettings>;
  });
  return out;
};

/** Pseudo-labels of a seed: those given, or clusters of a simclr encoder under the same budget. */
const labelsOf = async (seed: number, variant: Variant, settings: Settings, pipeline: Pipeline): Promise<string> => {
  if (settings.pseudoLabels !== undefined) return settings.pseudoLabels;
  const own = variant.settings.clusters;
  const wanted = typeof own === "string" ? own.split(",").map(Number) : settings.clusters;
  const clusters = [...new Set([...settings.clusters, ...wanted])].sort((a, b) => a - b);
  const name = `labels-${clusters.join("-")}-seed${seed}`;
  const out = join(settings.out, `${name}.safetensors`);
  const { dataset, limit } = settings;
  await pipeline.once(name, cluster, async () => {
    const teacher = await encoderOf(teacherOf(settings), seed, settings, pipeline);
    return { ...commonOf(settings), teacher, dataset, limit, seed, clusters, out };
  });
  return out;
};
