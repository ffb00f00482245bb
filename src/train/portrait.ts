/** Pictures of a pretraining for its report: a few images as training and an attack see them, and a map of features. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { pgdUpdate } from "../../graphs/attacks/pgd.ts";
import { linf } from "../../graphs/attacks/threat-model.ts";
import { grad } from "../../graphs/autodiff/grad.ts";
import { cosine } from "../../graphs/losses/cosine.ts";
import { encoder } from "../../graphs/nn/encoder.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import type { Value } from "../../graphs/onnx/graph.ts";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { neg } from "../../graphs/ops/index.ts";
import { highFrequency } from "../../graphs/views/high-frequency.ts";
import type { InputRecipes, ViewRecipe } from "../../graphs/views/recipe.ts";
import { kMeans } from "../cluster/k-means.ts";
import { createPoints } from "../cluster/points.ts";
import type { Dataset } from "../data/dataset.ts";
import { createPainter } from "../data/painter.ts";
import type { PseudoLabels } from "../data/pseudo-labels.ts";
import { random } from "../data/random.ts";
import { samplePlaces } from "../data/sample.ts";
import { subset } from "../data/subset.ts";
import type { Engine } from "../engine/engine.ts";
import { createExtractor } from "../evaluate/knn.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { sealed } from "../files/seal.ts";
import { imageBatch } from "../models/images.ts";
import { type FeatureMap, type Gallery, type Groups, type Portrait, portraitFile } from "../report/portrait-file.ts";
import { type Network, weightFeeds } from "../runs/network.ts";

export interface PortraitOptions {
  readonly engine: Engine;
  readonly network: Network;
  /** By PyTorch name. */
  readonly weights: ReadonlyMap<string, Tensor>;
  /** The images of training. */
  readonly dataset: Dataset;
  /** What the method's step is fed in the first epoch. */
  readonly inputs: InputRecipes;
  readonly seed: number;
  /** Radius of the attack. */
  readonly eps: number;
  /** Radius of the high-frequency view, and whether the method trains on it. */
  readonly radius: number;
  readonly highFrequency: boolean;
  readonly pseudoLabels?: PseudoLabels | undefined;
}

/** Images of the gallery, images of the map, passes of UMAP: a second or two on one core. */
const [shownImages, mappedImages, umapPasses] = [6, 240, 150];

/** Steps of the gallery's attack, each a quarter of the radius. */
const attackSteps = 10;

/** An image as PNG in base64, from [3,H,W] in [0, 1]; small ones are made larger by the page. */
const pngOf = async (x: Float32Array, size: number): Promise<string> => {
  const { default: sharp } = await import("sharp");
  const plane = size * size;
  const bytes = Buffer.alloc(3 * plane);
  for (let p = 0; p < plane; p++)
    for (let c = 0; c < 3; c++) bytes[3 * p + c] = Math.round(255 * Math.min(Math.max(x[c * plane + p]!, 0), 1));
  const raw = { width: size, height: size, channels: 3 } as const;
  return (await sharp(bytes, { raw }).png().toBuffer()).toString("base64");
};

/** One step of an attack that leads features away from those of the clean images, and these images' high frequencies. */
const awayStep = (network: Network, count: number, { eps, radius }: PortraitOptions) => {
  const store = new Store();
  const type = { dtype: "float32", shape: [count, 3, network.size, network.size] } as const;
  const [clean, x] = [store.input("clean", type), store.input("x", type)];
  const features = (images: Value): Value =>
    encoder(network)(new Scope(store, { mode: "eval", branches: [network.evaluatedBranch] }), images);
  const [gradient] = grad(neg(cosine(features(x), features(clean))), [x]) as [Value];
  const next = pgdUpdate({ threat: linf(eps), stepSize: eps / 4 }, gradient, x, clean);
  return { store, outputs: { next, high: highFrequency(clean, radius) } };
};

/** The attacked images and the high frequencies, [N,3,S,S] each. */
const attacked = async (clean: Tensor<"float32">, index: Int32Array, options: PortraitOptions) => {
  const { engine, network, weights, seed, eps } = options;
  const { store, outputs } = awayStep(network, index.length, options);
  const session = await engine.loadEvaluation(outputs);
  try {
    const feeds = { ...weightFeeds(store, weights, "the weights"), "input.clean": clean };
    const start = new Float32Array(clean.data.length);
    const length = start.length / index.length;
    // Where features are those of the clean image the cosine has no slope: the attack starts beside it.
    for (const [row, image] of index.entries())
      random(seed, 0, image, "portrait").fillUniform(start.subarray(row * length, (row + 1) * length), -eps, eps);
    let x = start.map((moved, i) => Math.min(Math.max(clean.data[i]! + moved, 0), 1));
    let high = x;
    for (let step = 0; step < attackSteps; step++) {
      const results = await session.run({ ...feeds, "input.x": tensor("float32", clean.shape, x) });
      x = Float32Array.from((results.next as Tensor<"float32">).data);
      high = Float32Array.from((results.high as Tensor<"float32">).data);
    }
    return { x, high };
  } finally {
    await session.release();
  }
};

/** Views of images that the method trains on, by name, as they are in the first epoch. */
const viewsOf = (sample: Dataset, { inputs, seed }: PortraitOptions): readonly (readonly [string, Float32Array])[] => {
  const recipes = Object.entries(inputs).flatMap(([name, recipe]) =>
    recipe.kind === "simclr" || recipe.kind === "crop" ? [[name, recipe as ViewRecipe] as const] : [],
  );
  const outs = recipes.map(() => new Float32Array(sample.images.length));
  const positions = Int32Array.from({ length: sample.count }, (_, i) => i);
  createPainter(sample, recipes, seed)(1, positions, 0, sample.count, outs);
  return recipes.map(([name], k) => [name, outs[k]!]);
};

const galleryOf = async (options: PortraitOptions): Promise<Gallery> => {
  const { dataset, network, seed, eps, radius } = options;
  const places = samplePlaces({ ...dataset, limit: shownImages, seed, stream: "gallery" });
  const sample = subset(dataset, places);
  const clean = imageBatch(sample, 0, sample.count);
  const { x, high } = await attacked(clean, sample.index, options);
  const times = 0.5 / Math.max(eps, 1e-6);
  const columns: readonly (readonly [title: string, note: string, images: Float32Array])[] = [
    ["clean", "as in the dataset", clean.data],
    ...viewsOf(sample, options).map(
      ([name, images]) => [name === "clean" ? "clean, cropped" : name, "of the first epoch", images] as const,
    ),
    [
      "high frequencies",
      `from radius ${radius} on${options.highFrequency ? "" : "; not a view of this method"}`,
      high.map((v) => 0.5 + v),
    ],
    ["adversarial", `PGD-${attackSteps}, ${Number((255 * eps).toFixed(2))}/255, away from the clean features`, x],
    ["perturbation", `${Math.round(times)} times as strong`, x.map((v, i) => 0.5 + times * (v - clean.data[i]!))],
  ];
  const length = x.length / sample.count;
  const rows = Array.from({ length: sample.count }, async (_, i) => ({
    label: dataset.classes[sample.labels?.[i] ?? -1] ?? `image ${sample.index[i]}`,
    pictures: await Promise.all(
      columns.map(([, , images]) => pngOf(images.subarray(i * length, (i + 1) * length), network.size)),
    ),
  }));
  return { columns: columns.map(([title, note]) => ({ title, note })), rows: await Promise.all(rows) };
};

/** Clusters of the images: those of the pseudo-labels whose number is nearest to that of the classes, else of k-means on the features. */
const clustersOf = async (
  sample: Dataset,
  features: Tensor<"float32">,
  { pseudoLabels, engine, seed }: PortraitOptions,
): Promise<Groups> => {
  const wanted = sample.classes.length || 10;
  const named = (k: number, source: string, of: Iterable<number>): Groups => ({
    source,
    names: Array.from({ length: k }, (_, i) => `cluster ${i}`),
    of: [...of],
  });
  if (pseudoLabels !== undefined) {
    const [k] = [...pseudoLabels.ks].sort((a, b) => Math.abs(a - wanted) - Math.abs(b - wanted)) as [number];
    const labels = pseudoLabels.labels(k);
    return named(
      k,
      `by cluster of the pseudo-labels, K = ${k}`,
      sample.index.map((i) => labels[i]!),
    );
  }
  const k = Math.min(wanted, sample.count);
  const points = createPoints(Float32Array.from(directionsOf(features).flat()), features.shape[1]!);
  const { labels } = await kMeans(points, {
    ...{ k, seed, restarts: 2, maxPasses: 50, tolerance: 1e-4 },
    // Few points: the CPU has them in no time, whatever else computes.
    engine: { provider: "cpu", ...(engine.options.threads !== undefined && { threads: engine.options.threads }) },
  });
  return named(k, `by cluster of these features (k-means of directions, K = ${k})`, labels);
};

const rounded = (x: number): number => Number(x.toFixed(3));

/** Rows [N,D] at length 1. */
const directionsOf = ({ data, shape: [count = 0, dim = 0] }: Tensor<"float32">): number[][] =>
  Array.from({ length: count }, (_, i) => {
    const row = data.subarray(i * dim, (i + 1) * dim);
    const norm = Math.hypot(...row) || 1;
    return Array.from(row, (v) => v / norm);
  });

/** Where UMAP (McInnes et al. 2018) puts rows of features [N,D], by cosine of their directions; the same seed, the same map. */
export const umapOf = async (features: Tensor<"float32">, seed: number): Promise<FeatureMap["points"]> => {
  const { UMAP } = await import("umap-js");
  const r = random(seed, 0, 0, "umap");
  const neighbours = Math.min(15, features.shape[0]! - 1);
  const umap = new UMAP({ nNeighbors: neighbours, nEpochs: umapPasses, random: () => r.uniform() });
  return umap.fit(directionsOf(features)).map(([x = 0, y = 0]) => [rounded(x), rounded(y)]);
};

const mapOf = async (options: PortraitOptions): Promise<FeatureMap> => {
  const { dataset, engine, network, weights, seed } = options;
  const sample = subset(dataset, samplePlaces({ ...dataset, limit: mappedImages, seed, stream: "map" }));
  // UMAP wants neighbours.
  if (sample.count < 4) return { points: [], source: "", groups: [] };
  const extractor = await createExtractor(engine, network, network.evaluatedBranch, Math.min(60, sample.count));
  try {
    const features = await extractor.extract(sample, weights);
    const points = await umapOf(features, seed);
    const { labels, classes } = sample;
    const byClass = labels && { source: "by class", names: [...classes], of: [...labels] };
    return {
      points,
      source: `Features of ${sample.count} training images, seed ${seed}, by UMAP: neighbours in the picture are neighbours in the direction of their features; distances between groups and sizes of groups say little.`,
      groups: [...(byClass ? [byClass] : []), await clustersOf(sample, features, options)],
    };
  } finally {
    await extractor.release();
  }
};

/** Writes `portrait.json` into a run folder; where that fails, none is left there. */
export const writePortrait = async (folder: string, options: PortraitOptions): Promise<void> => {
  const path = join(folder, portraitFile);
  try {
    const portrait: Portrait = { gallery: await galleryOf(options), map: await mapOf(options) };
    await writeFileAtomic(path, `${sealed(portrait)}\n`);
  } catch (error) {
    // One of an earlier state of the run would be wrong.
    await rm(path, { recursive: true, force: true });
    throw error;
  }
};
