/** Pseudo-labels by clustering a teacher's features (ClusterFit, Yan et al. 2020). */
import { z } from "zod";
import { type Dataset, loadDataset, splits } from "../data/dataset.ts";
import { officialDigests } from "../data/digest.ts";
import { UNLABELLED, writePseudoLabels } from "../data/pseudo-labels.ts";
import type { Collective } from "../distributed/collective.ts";
import { joinRanks } from "../distributed/ranks.ts";
import { chooseEngine, type Engine } from "../engine/engine.ts";
import { RequestError } from "../errors.ts";
import { checkWritable } from "../files/atomic.ts";
import { datasetSettings, launchSettings } from "../settings/fragments.ts";
import { path, setting } from "../settings/schema.ts";
import type { Resolved } from "../settings/spec.ts";
import { defineVerb, Interrupted, type VerbContext } from "../verbs/verb.ts";
import { normalizedMutualInformation, purity } from "./agreement.ts";
import { kMeans } from "./k-means.ts";
import { createPoints } from "./points.ts";
import { openTeacher } from "./teacher.ts";

const teacher = { group: "Teacher" };
const data = { group: "Data" };
const means = { group: "k-means" };

export const clusterSettings = {
  teacher: setting(path(), "ONNX model, or run: its folder, its file by export, or the name of one that ships", {
    ...teacher,
    path: true,
  }),
  teacherSize: setting(z.int().min(1).optional(), "side of its images; left out, as the model says", teacher),
  layout: setting(z.enum(["nchw", "nhwc"]).optional(), "of its images; left out, as the model says", teacher),
  mean: setting(z.array(z.number()).optional(), "taken off pixels in [0, 1], one or three numbers", teacher),
  std: setting(z.array(z.number().min(1e-6)).optional(), "what they are then divided by", teacher),
  output: setting(z.string().optional(), "name of the features: an output or any inner value", teacher),
  branch: setting(z.string().optional(), "batch-norm branch of a run's encoder", teacher),
  featureBatch: setting(z.int().min(1).default(100), "images at once", teacher),
  ...datasetSettings,
  split: setting(z.enum(splits).default("train"), "part to cluster", data),
  limit: setting(z.int().min(0).default(0), "use N images, a sample of every class by --seed; 0 for all", data),
  clusters: setting(z.array(z.int().min(2)).default([2, 10, 50, 100, 500]), "each K", means),
  restarts: setting(z.int().min(1).default(3), "runs of which the best is kept", means),
  maxPasses: setting(z.int().min(1).default(100), "passes of a run at most", means),
  tolerance: setting(z.number().min(0).default(1e-4), "as scikit-learn's tol", means),
  ...launchSettings,
  out: setting(path(), "safetensors file to write", { group: "Common settings", path: true }),
};

type Settings = Resolved<typeof clusterSettings>;

/** The clusters of one K. */
export interface ClusterFigures {
  readonly k: number;
  /** Sum of squared distances to the nearest centre. */
  readonly inertia: number;
  readonly passes: number;
  readonly seconds: number;
  /** Images in the smallest, the median and the largest cluster. */
  readonly smallest: number;
  readonly median: number;
  readonly largest: number;
  /** Agreement with the dataset's labels, where it has any: purity, normalised mutual information. */
  readonly purity?: number;
  readonly nmi?: number;
}

export interface ClusterResult {
  /** The file of pseudo-labels. */
  readonly out: string;
  /** The teacher, and what was taken for its input and output. */
  readonly teacher: string;
  readonly images: number;
  /** Length of a feature vector. */
  readonly features: number;
  readonly featureSeconds: number;
  readonly clusters: readonly ClusterFigures[];
}

interface Features {
  readonly dataset: Dataset;
  readonly points: ReturnType<typeof createPoints>;
  readonly dim: number;
  readonly seconds: number;
  readonly description: string;
}

/** The teacher's features of all images. */
const readFeatures = async (
  settings: Settings,
  engine: Engine,
  ranks: Collective,
  context: VerbContext,
): Promise<Features> => {
  const { dataset: name, data, split, limit, seed, clusters, testShare, skipBroken } = settings;
  const asked = { ...settings, size: settings.teacherSize, batch: settings.featureBatch };
  const teacher = await openTeacher(asked, engine, context.warn);
  context.log(`teacher ${teacher.description}`);
  const { size, description } = teacher;
  const dataset = await loadDataset({
    name,
    data,
    split,
    size,
    limit: limit > 0 ? limit : undefined,
    seed,
    testShare,
    skipBroken,
    warn: context.warn,
  });
  const largest = Math.max(...clusters);
  if (largest > dataset.count)
    throw new RequestError(`K = ${largest} is more than the ${dataset.count} images; give smaller clusters`);
  const reading = context.progress({ steps: dataset.count, unit: "image" });
  let read = 0;
  const began = performance.now();
  const features = await teacher
    .features(
      dataset,
      (images) => {
        read += images;
        reading.update({ step: read, images });
      },
      ranks,
    )
    .finally(() => teacher.release());
  reading.stop();
  const seconds = (performance.now() - began) / 1000;
  context.log(`${dataset.count} × ${features.dim} features in ${seconds.toFixed(1)} s`);
  return { dataset, points: createPoints(features.data, features.dim), dim: features.dim, seconds, description };
};

const figuresOf = (
  k: number,
  { labels, sizes: counts, inertia, passes }: Awaited<ReturnType<typeof kMeans>>,
  seconds: number,
  { labels: classes }: Dataset,
): ClusterFigures => {
  const sizes = Array.from(counts).sort((a, b) => a - b);
  const at = (i: number): number => sizes[i] ?? 0;
  const [smallest, median, largest] = [at(0), (at((k - 1) >> 1) + at(k >> 1)) / 2, at(k - 1)];
  const agreement = classes && { purity: purity(labels, classes), nmi: normalizedMutualInformation(labels, classes) };
  return { k, inertia, passes, seconds, smallest, median, largest, ...agreement };
};

const printFigures = (figures: ClusterFigures): string => {
  const { k, smallest, largest, median, inertia, passes, seconds } = figures;
  const agreement =
    figures.purity === undefined ? "" : `, purity ${figures.purity.toFixed(4)}, NMI ${figures.nmi?.toFixed(4)}`;
  return (
    `K = ${k}: sizes ${smallest} to ${largest} (median ${median}), inertia ${inertia.toPrecision(6)}, ` +
    `${passes} passes, ${seconds.toFixed(1)} s${agreement}`
  );
};

/** Clusters for one K, as labels of the images' places in the full official dataset. */
const clusterBy = async (
  k: number,
  { points, dataset }: Features,
  settings: Settings,
  engine: Engine,
  ranks: Collective,
  context: VerbContext,
) => {
  const { signal } = context;
  const started = performance.now();
  const most = settings.restarts * settings.maxPasses; // most runs end long before
  const progress = context.progress({ steps: most, unit: "pass", atMost: true });
  let passes = 0;
  const onPass = ({ inertia }: { readonly inertia: number }) =>
    progress.update({ step: ++passes, figures: { inertia } });
  const found = await kMeans(points, { ...settings, k, engine: engine.options, signal, onPass, ranks })
    .catch((error: unknown) => {
      throw signal.aborted ? new Interrupted("") : error;
    })
    .finally(() => progress.stop());
  const figures = figuresOf(k, found, (performance.now() - started) / 1000, dataset);
  context.print(printFigures(figures));
  const empty = found.sizes.filter((size: number) => size === 0).length;
  if (empty > 0)
    context.warn(
      `K = ${k}: ${empty} of the clusters are empty, since the images have fewer distinct features; give a smaller K`,
    );
  // Images that are not here have no label.
  const official = new Int32Array(dataset.officialCount).fill(UNLABELLED);
  dataset.index.forEach((place, i) => {
    official[place] = found.labels[i]!;
  });
  return { figures, official };
};

const run = async (settings: Settings, context: VerbContext): Promise<ClusterResult> => {
  const { clusters, seed, out } = settings;
  if (clusters.length === 0) throw new RequestError("clusters is empty: give at least one K");
  const ranks = await joinRanks(settings);
  if (ranks.rank === 0) await checkWritable(out);
  const engine = await chooseEngine({ ...settings, device: ranks.localRank });
  const features = await readFeatures(settings, engine, ranks, context);
  const { dataset, description } = features;
  const labels = new Map<number, Int32Array>();
  const figures: ClusterFigures[] = [];
  for (const k of [...clusters].sort((a, b) => a - b)) {
    const fitted = await clusterBy(k, features, settings, engine, ranks, context);
    figures.push(fitted.figures);
    labels.set(k, fitted.official);
  }
  const { name, count, officialCount } = dataset;
  const { dim, seconds } = features;
  const result = {
    out,
    teacher: description,
    images: count,
    features: dim,
    featureSeconds: seconds,
    clusters: figures,
  };
  if (ranks.rank > 0) return result;
  await writePseudoLabels(
    out,
    { ks: [...labels.keys()], labels: (k) => labels.get(k) as Int32Array, digests: officialDigests(dataset) },
    {
      teacher: description,
      dataset: `${name} ${dataset.split}`,
      images: `${count} of ${officialCount}`,
      seed: String(seed),
    },
    settings.split === "test" ? "test" : "train",
  );
  const others = count < officialCount ? ` (the other ${officialCount - count} of ${name} have none)` : "";
  context.print(`${out}: labels of ${count} images${others}`);
  return result;
};

/**
 * Clusters a teacher's features of a dataset by k-means, for each K, into a file of pseudo-labels (`out`).
 *
 * @throws RequestError where the request is wrong, Interrupted where the signal was aborted (nothing is written)
 */
export const cluster = defineVerb({ name: "cluster", settings: clusterSettings }, run);
