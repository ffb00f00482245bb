/** What the page shows: the classifier of a run or of an ONNX file, and images to try on it. */
import { readFile, stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import type { Value } from "../../graphs/onnx/graph.ts";
import { parseModel } from "../../graphs/onnx/parse.ts";
import { type Dataset, type DatasetName, loadDataset } from "../data/dataset.ts";
import { classNames } from "../deploy/metadata.ts";
import { floatGraph } from "../deploy/model.ts";
import { deployedOptions, namesOfClasses, openSource } from "../deploy/source.ts";
import { RequestError } from "../errors.ts";
import { imagesOf, namesOf, readClassifier } from "../evaluate/classifier.ts";
import { fileError } from "../files/file-error.ts";
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
}

interface Shown extends PageClassifier {
  readonly title: string;
  readonly facts: Record<string, string>;
  /** Names of the classes, where the source knows them. */
  readonly classes: readonly string[] | undefined;
  readonly dataset: DatasetName | undefined;
  readonly data: string | undefined;
}

const isFolder = async (path: string): Promise<boolean> => {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    throw fileError(error, "open", path);
  }
};

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
  const { depth, width, size } = source.network;
  return {
    image,
    logits: (outputs.logits ?? outputs.features) as Value,
    title: basename(resolve(from)),
    facts: facts({
      "": `ResNet-${depth}, width ${width}, ${size}×${size}`,
      method: settings.method ?? settings.scheme,
      "trained on": settings.dataset,
      branch: source.branch?.name,
    }),
    classes: namesOfClasses(source),
    dataset: settings.dataset as DatasetName | undefined,
    data: settings.data as string | undefined,
  };
};

const ofFile = async ({ from, size }: PageRequest): Promise<Shown> => {
  const read = async () => {
    const file = parseModel(await readFile(from));
    const { name } = imagesOf(file, from);
    const dims = size === undefined ? {} : { height: size, width: size, h: size, w: size, H: size, W: size };
    return { ...readClassifier(file, from, { batch: 1, dims }), name };
  };
  const { inputs, logits, metadata, name } = await read().catch((error: unknown) => {
    throw fileError(error, "read", from);
  });
  const image = inputs[name] as Value;
  const classes = namesOf(metadata.classes);
  return {
    image,
    logits,
    title: basename(from),
    facts: facts({
      "": `${image.shape[2]}×${image.shape[3]}`,
      method: metadata.method,
      "trained on": metadata.dataset,
      branch: metadata.branch,
    }),
    classes: classes.length === 0 ? undefined : classes,
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
    labels: Int32Array.from(order, (from) => labels[from] as number),
  };
};

/** Files of the page for a run folder or an ONNX file. */
export const pageFiles = async (request: PageRequest, warn: (message: string) => void): Promise<PageFiles> => {
  const shown = (await isFolder(request.from)) ? await ofRun(request, warn) : await ofFile(request);
  const count = shown.logits.dim(1);
  const name = request.dataset ?? shown.dataset ?? "shapes";
  const data = request.data ?? (request.dataset === undefined ? shown.data : undefined);
  const size = shown.image.dim(2);
  let samples: Dataset | undefined;
  try {
    const loaded = await loadDataset({
      name,
      data,
      split: "test",
      size,
      limit: Math.max(400, request.samples),
      seed: request.seed,
    });
    samples = spread(loaded, request.samples);
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
  const options: PageOptions = {
    ...request,
    title: shown.title,
    facts: shown.facts,
    classes,
    samples: same ? samples : { ...samples, labels: new Int32Array(samples.count).fill(-1) },
  };
  return buildPage(shown, options);
};
