/** What the page shows: the classifier of a run or of an ONNX file, and images to try on it. */
import { basename, resolve } from "node:path";
import { bind } from "../../graphs/deploy/rewrite.ts";
import { encoderName } from "../../graphs/nn/encoder.ts";
import { input, type Value } from "../../graphs/onnx/graph.ts";
import { type Dataset, type DatasetName, loadDataset } from "../data/dataset.ts";
import { classNames } from "../deploy/metadata.ts";
import { floatGraph } from "../deploy/model.ts";
import { deployedOptions, namesOfClasses, openSource } from "../deploy/source.ts";
import type { Engine } from "../engine/engine.ts";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import { chanceWarning, type Judged, shareRight } from "../models/chance.ts";
import { openClassifier } from "../models/classifier.ts";
import { type Layout, normalised } from "../models/input.ts";
import { placeOf } from "../runs/config.ts";
import { holdsRun } from "../runs/run-file.ts";
import { buildPage, type PageClassifier, type PageFiles, type PageOptions } from "./build.ts";

export interface PageRequest {
  readonly from: string;
  readonly branch: string;
  readonly dataset?: DatasetName | undefined;
  readonly data?: string | undefined;
  /** Images to try. */
  readonly samples: number;
  readonly classNames?: readonly string[] | undefined;
  readonly mean?: readonly number[] | undefined;
  readonly std?: readonly number[] | undefined;
  readonly eps: number;
  readonly seed: number;
  /** Side of the images of a model that leaves it open. */
  readonly size?: number | undefined;
  /** Of an ONNX file's images. */
  readonly layout?: Layout | undefined;
  /** Name of an ONNX file's logits. */
  readonly output?: string | undefined;
}

/** What a model that is no better than chance is judged by. */
type Judging = Omit<Judged, "source" | "image">;

interface Shown extends PageClassifier {
  readonly judging: Judging;
  readonly title: string;
  readonly facts: Record<string, string>;
  /** Names of the classes, where the source knows them. */
  readonly classes: readonly string[] | undefined;
  readonly dataset: DatasetName | undefined;
  readonly data: string | undefined;
}

const facts = (entries: Readonly<Record<string, unknown>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(entries).flatMap(([key, value]) =>
      value === undefined || value === "" ? [] : [[key, String(value)]],
    ),
  );

const ofRun = async ({ from, branch }: PageRequest, warn: (message: string) => void): Promise<Shown> => {
  const source = await openSource(from, branch, warn);
  const options = deployedOptions(source, source.classes === undefined ? "encoder" : "classifier", from);
  const { image, outputs } = floatGraph(options, source.weights, source.branch?.index);
  const { settings } = source.run.config;
  const { width, size } = source.network;
  const logits = (outputs.logits ?? outputs.features) as Value;
  const build = (x: Value): Value => bind({ logits }, new Map([[image, x]])).logits;
  return {
    image,
    logits,
    judging: { unnormalised: build, fixedBatch: 1 },
    title: basename(resolve(from)),
    facts: facts({
      "": `${encoderName(source.network)}, width ${width}, ${size}×${size}`,
      method: settings.method ?? settings.scheme,
      "trained on": settings.dataset,
      branch: source.branch?.name,
    }),
    classes: namesOfClasses(source),
    dataset: settings.dataset as DatasetName | undefined,
    data: placeOf(source.run.config, "data") as string | undefined,
  };
};

const ofFile = async (request: PageRequest, warn: (message: string) => void): Promise<Shown> => {
  const { from, size, layout, output } = request;
  const opened = await openClassifier(from, { size, layout, output, warn });
  const loaded = opened.classifier(request.classNames?.length);
  const { fixedBatch, model, classNames: names, asIs } = loaded;
  if (asIs !== undefined)
    warn(`${from} computes on integers: the page shows and attacks its float32 shadow, which may differ a little`);
  if (fixedBatch !== undefined && fixedBatch !== 1)
    throw new RequestError(
      `${from} works with batches of ${fixedBatch} only and the page shows one image; export it with an open batch (dynamic_axes) or a batch of 1`,
    );
  const image = input("image", { dtype: "float32", shape: [1, ...loaded.image] });
  const metadata = model?.file.metadata ?? {};
  return {
    image,
    logits: loaded.build(image),
    judging: loaded,
    title: basename(from),
    facts: facts({
      "": `${image.shape[2]}×${image.shape[3]}`,
      method: metadata.method,
      "trained on": metadata.dataset,
      branch: metadata.branch,
    }),
    classes: names.length === 0 ? undefined : names,
    dataset: metadata.dataset as DatasetName | undefined,
    data: undefined,
  };
};

/** Every class in turn, so that few images show all of them. */
const spread = (images: Dataset, count: number): Dataset => {
  const { labels, height, width } = images;
  if (labels === undefined) return { ...images, count: Math.min(count, images.count) };
  const byClass = new Map<number, number[]>();
  labels.forEach((label, i) => {
    byClass.set(label, [...(byClass.get(label) ?? []), i]);
  });
  const order: number[] = [];
  const queues = [...byClass.keys()].sort((a, b) => a - b).map((label) => byClass.get(label) as number[]);
  for (let round = 0; order.length < Math.min(count, images.count); round++)
    for (const queue of queues) {
      const next = queue[round];
      if (next !== undefined && order.length < count) order.push(next);
    }
  const each = 3 * height * width;
  const picked = new Uint8Array(order.length * each);
  order.forEach((from, i) => {
    picked.set(images.images.subarray(from * each, (from + 1) * each), i * each);
  });
  return {
    ...images,
    count: order.length,
    images: picked,
    labels: Int32Array.from(order, (from) => labels[from]!),
  };
};

/** Warns where the model tells the images to try apart no better than chance, as the page would show it. */
const warnOfChance = async (
  { judging, image }: Shown,
  { from, mean = [], std = [] }: PageRequest,
  samples: Dataset,
  engine: Pick<Engine, "loadEvaluation">,
  warn: (message: string) => void,
): Promise<void> => {
  const { labels } = samples;
  if (labels === undefined || samples.count === 0) return;
  const judged = { ...judging, source: basename(resolve(from)), image: [3, image.dim(2), image.dim(3)] as const };
  const given = (x: Value): Value => normalised(x, { mean, std });
  const accuracy = await shareRight((x) => judged.unnormalised(given(x)), judged, { ...samples, labels }, engine);
  const warning = await chanceWarning(accuracy, judged, { ...samples, labels }, engine);
  if (warning !== undefined) warn(warning);
};

/** Files of the page for a run folder or an ONNX file; with an engine the model is tried on the images. */
export const pageFiles = async (
  request: PageRequest,
  warn: (message: string) => void,
  engine?: Pick<Engine, "loadEvaluation">,
): Promise<PageFiles> => {
  const isRun = await holdsRun(request.from).catch((error: unknown) => {
    throw fileError(error, "open", request.from);
  });
  const shown = isRun ? await ofRun(request, warn) : await ofFile(request, warn);
  const count = shown.logits.dim(1);
  const name = request.dataset ?? shown.dataset ?? "shapes";
  const data = request.data ?? (request.dataset === undefined ? shown.data : undefined);
  const size = shown.image.dim(2);
  let samples: Dataset | undefined;
  let tried: Dataset | undefined;
  try {
    const loaded = await loadDataset({
      name,
      data,
      split: "test",
      size,
      limit: Math.max(400, request.samples),
      seed: request.seed,
      skipBroken: true, // a few to try are wanted, whichever
      warn,
    });
    samples = spread(loaded, request.samples);
    tried = loaded;
  } catch (error) {
    if (request.dataset !== undefined) throw error;
    warn(`images to try are generated shapes: ${(error as Error).message}`);
    samples = spread(await loadDataset({ name: "shapes", split: "test", size, limit: 200 }), request.samples);
  }
  const named = request.classNames ?? shown.classes;
  if (request.classNames !== undefined && request.classNames.length !== count)
    throw new RequestError(`--class-names has ${request.classNames.length} names but the model has ${count} classes`);
  const classes = classNames(count, named ?? samples.classes);
  // Labels mean something only where the classes are the dataset's.
  const same = classes.join() === samples.classes.join();
  if (same && engine !== undefined) await warnOfChance(shown, request, tried ?? samples, engine, warn);
  const options: PageOptions = {
    ...request,
    title: shown.title,
    facts: shown.facts,
    classes,
    samples: same ? samples : { ...samples, labels: new Int32Array(samples.count).fill(-1) },
  };
  return buildPage(shown, options);
};
