/** Makes the page: its programs for a classifier, the engine, images to try, and the page itself, as files by name. */
import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { cutClassifier, padded, pageAttack, pageHead, unusedBias } from "../../graphs/deploy/page.ts";
import { bind } from "../../graphs/deploy/rewrite.ts";
import { input, type Value } from "../../graphs/onnx/graph.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import type { Dataset } from "../data/dataset.ts";
import { webEngine } from "../deploy/web.ts";
import { RequestError } from "../errors.ts";
import { photoBatch } from "../models/images.ts";
import { normalised } from "../models/input.ts";
import { packageRoot } from "../version.ts";
import type { PageDescription } from "./page-description.ts";

/** A classifier of one image, as values. */
export interface PageClassifier {
  /** float32 [1,3,S,S]. */
  readonly image: Value;
  /** [1,classes]. */
  readonly logits: Value;
}

export interface PageOptions {
  readonly title: string;
  /** Names of the classes. */
  readonly classes: readonly string[];
  /** What the model takes, from pixels in [0, 1]: (pixel - mean) / std by channel. */
  readonly mean?: readonly number[] | undefined;
  readonly std?: readonly number[] | undefined;
  readonly eps: number;
  /** Facts to show, by name. */
  readonly facts: Readonly<Record<string, string>>;
  /** Images to try, of the classifier's size. */
  readonly samples: Dataset | undefined;
}

/** Files of the page: bytes, or where they lie on disk. */
export type PageFiles = Map<string, Uint8Array | { readonly path: string }>;

/** Rows of a head at least: classes that a visitor may teach. */
const LEAST_SLOTS = 8;
/** Examples that a visitor may give. */
const EXAMPLES = 96;

/** Where the built page lies. */
const assets = join(packageRoot, "dist", "page");

const engineFiles = [
  "ort.wasm.min.mjs",
  "ort.webgpu.min.mjs",
  "ort-wasm-simd-threaded.mjs",
  "ort-wasm-simd-threaded.wasm",
  "ort-wasm-simd-threaded.asyncify.mjs",
  "ort-wasm-simd-threaded.asyncify.wasm",
];

const bytesOf = (...parts: readonly Float32Array[]): Uint8Array =>
  Buffer.concat(parts.map((part) => new Uint8Array(part.buffer, part.byteOffset, part.byteLength)));

/** Refuses what the page cannot show. */
const checkClassifier = ({ image, logits }: PageClassifier): void => {
  const [, channels, height, width] = image.shape;
  if (channels !== 3 || height !== width)
    throw new RequestError(
      `the page shows square images of three channels, and the model takes [${image.shape.join(", ")}]; give another model`,
    );
  if (logits.rank !== 2)
    throw new RequestError(`the model gives [${logits.shape.join(", ")}], not logits [1, classes]; give a classifier`);
  if (!existsSync(join(assets, "index.html")))
    throw new Error(`internal: ${assets} lacks the page; run npm run build first`);
};

/** The classifier cut before its head: features of pixels in [0, 1], normalised as the model wants them. */
const cutFeatures = ({ image, logits }: PageClassifier, normalisation: PageOptions) => {
  const cut = cutClassifier(logits);
  const features = (x: Value): Value =>
    bind({ features: cut.features }, new Map([[image, normalised(x, normalisation)]])).features;
  return { cut, features };
};

/** Makes the page of a classifier. */
export const buildPage = async (classifier: PageClassifier, options: PageOptions): Promise<PageFiles> => {
  checkClassifier(classifier);
  const { image, logits } = classifier;
  const { cut, features } = cutFeatures(classifier, options);
  const slots = Math.max(LEAST_SLOTS, logits.dim(1));
  const head = padded(cut, slots);
  const d = cut.features.dim(1);
  const write = (outputs: Readonly<Record<string, Value>>) => buildModel(lower(outputs, portable)).bytes;
  const x = input("x", { dtype: "float32", shape: image.shape });
  const { samples } = options;
  const description: PageDescription = {
    title: options.title,
    facts: options.facts,
    size: image.dim(3),
    features: d,
    slots,
    examples: EXAMPLES,
    classes: options.classes,
    eps: options.eps,
    samples: samples === undefined ? [] : Array.from(samples.labels ?? new Int32Array(samples.count).fill(-1)),
    sampleClasses: samples?.classes ?? [],
    unusedBias,
  };
  const files: PageFiles = new Map<string, Uint8Array | { path: string }>([
    ["features.onnx", write({ features: features(x) })],
    ["attack.onnx", write(pageAttack(image.shape, slots, features))],
    ["head.onnx", write(pageHead(slots, d, EXAMPLES))],
    ["head.bin", bytesOf(head.weight.data as Float32Array, head.bias.data as Float32Array)],
    ["samples.bin", samples === undefined ? new Uint8Array() : photoBatch(samples, 0, samples.count).data],
    ["page.json", Buffer.from(`${JSON.stringify(description)}\n`)],
  ]);
  for (const name of await readdir(assets)) files.set(name, await readFile(join(assets, name)));
  const engine = webEngine("onnxruntime-web");
  for (const name of engineFiles) files.set(`ort/${name}`, { path: join(engine, name) });
  return files;
};
