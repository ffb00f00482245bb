import { readFile } from "node:fs/promises";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { listed, RequestError } from "../errors.ts";
import { Budget, type ReadOptions } from "../files/budget.ts";
import { fileError } from "../files/file-error.ts";
import { readPickledArrays } from "../files/pickle.ts";
import { readSafetensors, writeSafetensors } from "../files/safetensors.ts";
import { misfit, sniffFile } from "../files/sniff.ts";
import type { Dataset } from "./dataset.ts";
import { digestBytes } from "./digest.ts";

/** Cluster indices of every image of a split under several numbers of clusters K (ClusterFit, ALGORITHM.md 6). */
export interface PseudoLabels {
  /** The K there are, ascending. */
  readonly ks: readonly number[];
  /** Images of the full official split, in the order of its files. */
  readonly count: number;
  /** Where they come from, for messages. */
  readonly source: string;
  /** [count, 8] digests of the images that were clustered, zeros for others; undefined where the file has none. */
  readonly digests?: Uint8Array | undefined;
  /**
   * [count] cluster of each image, 0 to k-1.
   * @throws RequestError where there are none for k
   */
  labels(k: number): Int32Array;
}

const fault = (source: string, what: string): RequestError =>
  new RequestError(`pseudo-labels: ${source} ${what}; make the file again with \`advcl cluster\` or give another.`);

/** What stands for an image that was not clustered. */
export const UNLABELLED = -1;

/**
 * Pseudo-labels from one array for each K.
 * @param source names the file in messages
 * @param digests of the images, [count, 8], as `officialDigests` gives them
 * @throws RequestError where the arrays differ in length or a label is neither 0 to K-1 nor UNLABELLED
 */
export const pseudoLabels = (
  byK: ReadonlyMap<number, ArrayLike<number>>,
  source: string,
  digests?: Uint8Array,
): PseudoLabels => {
  const ks = [...byK.keys()].sort((a, b) => a - b);
  if (ks.length === 0) throw fault(source, "has no labels");
  const count = byK.get(ks[0]!)!.length;
  const arrays = new Map<number, Int32Array>();
  for (const k of ks) {
    const values = byK.get(k)!;
    if (values.length !== count)
      throw fault(source, `has ${values.length} labels for K = ${k} but ${count} for K = ${ks[0]}`);
    for (let i = 0; i < count; i++) {
      const label = values[i]!;
      if (!(Number.isInteger(label) && label >= UNLABELLED && label < k))
        throw fault(
          source,
          `has label ${label} for image ${i} under K = ${k}, where labels are 0 to ${k - 1}, or ${UNLABELLED} for none`,
        );
    }
    arrays.set(k, Int32Array.from(values));
  }
  if (digests !== undefined && digests.length !== count * digestBytes)
    throw fault(source, `has digests of ${digests.length / digestBytes} images but labels of ${count}`);
  return {
    digests,
    ks,
    count,
    source,
    labels: (k) => {
      const found = arrays.get(k);
      if (found === undefined)
        throw new RequestError(
          `pseudo-labels: ${source} has none for K = ${k}; it has K = ${ks.join(", ")}: choose among these.`,
        );
      return found;
    },
  };
};

const fromTensor = (source: string, name: string, { dtype, shape, data }: Tensor): ArrayLike<number> => {
  if ((dtype !== "int32" && dtype !== "int64") || shape.length !== 1)
    throw fault(source, `has ${name} as ${dtype}[${shape.join(",")}] instead of int32[images]`);
  return dtype === "int64" ? Array.from(data as BigInt64Array, Number) : (data as Int32Array);
};

interface Arrays {
  readonly byName: ReadonlyMap<string, ArrayLike<number>>;
  readonly tensors: ReadonlyMap<string, Tensor>;
}

const digestsName = (split: "train" | "test"): string => `images_${split}`;

const readPickle = async (path: string, options: ReadOptions): Promise<Arrays> => {
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw fileError(cause, "read", path);
  });
  try {
    const arrays = readPickledArrays(bytes, options);
    const byName = new Map<string, ArrayLike<number>>();
    for (const [name, { shape, values }] of arrays) {
      if (shape.length !== 1) throw new Error(`${name} in it is [${shape.join(",")}], not one number an image`);
      byName.set(name, values);
    }
    return { byName, tensors: new Map() };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RequestError(
      `pseudo-labels: ${path} is neither safetensors nor a pickle that can be read: ${reason}; give a file with pseudo_train_K arrays.`,
      { cause },
    );
  }
};

/** Pickles of protocol 0 are text: a dictionary begins with a mark and ends with a full stop. */
const isTextPickle = async (path: string): Promise<boolean> =>
  /^\(d[\s\S]*\.$/.test(await readFile(path, "latin1").catch(() => ""));

const readArrays = async (path: string, options: ReadOptions): Promise<Arrays> => {
  const { kind } = await sniffFile(path);
  if (kind === "safetensors") {
    const { tensors } = await readSafetensors(path);
    const labels = [...tensors].filter(([name]) => name.startsWith("pseudo_"));
    return { byName: new Map(labels.map(([name, value]) => [name, fromTensor(path, name, value)])), tensors };
  }
  if (kind === "pickle" || kind === "unknown" || (kind === "text" && (await isTextPickle(path))))
    return readPickle(path, options);
  throw misfit(
    `pseudo-labels: ${path}`,
    kind,
    "safetensors or a pickle of numpy arrays",
    "give a file of advcl cluster, or pickle.dump({'pseudo_train_10': labels}, file) with a numpy array of whole numbers for each K",
  );
};

const readDigests = (
  path: string,
  tensors: ReadonlyMap<string, Tensor>,
  split: "train" | "test",
): Uint8Array | undefined => {
  const found = tensors.get(digestsName(split));
  if (found === undefined) return undefined;
  const { dtype, shape, data } = found;
  if (dtype !== "uint8" || shape.length !== 2 || shape[1] !== digestBytes)
    throw fault(
      path,
      `has ${digestsName(split)} as ${dtype}[${shape.join(",")}] instead of uint8[images,${digestBytes}]`,
    );
  return data as Uint8Array;
};

/**
 * Reads pseudo-labels: safetensors, or the pickle of the authors' code.
 * @param split which arrays: `pseudo_train_K` or `pseudo_test_K`
 * @throws RequestError where the file cannot be read or its labels are not what they should be
 */
export const readPseudoLabels = async (
  path: string,
  split: "train" | "test" = "train",
  options: ReadOptions = {},
): Promise<PseudoLabels> => {
  const { byName, tensors } = await readArrays(path, options);
  const budget = Budget.of(0, options);
  const byK = new Map<number, ArrayLike<number>>();
  for (const [name, values] of byName) {
    const match = new RegExp(`^pseudo_${split}_0*([1-9]\\d{0,8})$`).exec(name);
    if (match === null) continue;
    budget.take(4 * values.length, `pseudo-labels: ${path}: ${name}`);
    byK.set(Number(match[1]), values);
  }
  if (byK.size === 0)
    throw fault(path, `has no pseudo_${split}_K arrays (it has ${listed([...byName.keys()]) || "none at all"})`);
  return pseudoLabels(byK, path, readDigests(path, tensors, split));
};

const digestTensor = (digests: Uint8Array): Tensor =>
  tensor("uint8", [digests.length / digestBytes, digestBytes], digests);

/**
 * Writes pseudo-labels as safetensors: int32 `pseudo_train_K` [count], and with digests uint8 `images_train` [count, 8],
 * by which the images are checked that the labels are read for.
 */
export const writePseudoLabels = async (
  path: string,
  labels: Pick<PseudoLabels, "ks" | "labels" | "digests">,
  metadata: Readonly<Record<string, string>> = {},
  split: "train" | "test" = "train",
): Promise<void> =>
  writeSafetensors(
    path,
    new Map<string, Tensor>([
      ...labels.ks.map((k): [string, Tensor] => {
        const values = labels.labels(k);
        return [`pseudo_${split}_${k}`, tensor("int32", [values.length], values)];
      }),
      ...(labels.digests === undefined ? [] : [[digestsName(split), digestTensor(labels.digests)] as [string, Tensor]]),
    ]),
    metadata,
  );

/** How many images of a dataset have another digest in the labels' file, of those that it has one for. */
const countOthers = (
  digests: Uint8Array,
  { index, digests: own }: { readonly index: Int32Array; readonly digests: Uint8Array },
): number => {
  let others = 0;
  index.forEach((at, i) => {
    const expected = digests.subarray(at * digestBytes, (at + 1) * digestBytes);
    const found = own.subarray(i * digestBytes, (i + 1) * digestBytes);
    if (expected.some((byte) => byte !== 0) && expected.some((byte, k) => byte !== found[k])) others++;
  });
  return others;
};

/**
 * Checks that pseudo-labels are of this dataset's split and have every K in `ks` for each of its images, and that these
 * are the images that were clustered, by their names and pixels.
 *
 * @param warn told where that cannot be checked, as the file or the dataset carries no digests
 * @throws RequestError that names both counts, or how many images are others, or the K there are, or how many images
 *   have no label
 */
export const checkPseudoLabels = (
  labels: PseudoLabels,
  dataset: Pick<Dataset, "name" | "split" | "officialCount" | "index" | "digests">,
  ks: readonly number[],
  warn?: (message: string) => void,
): void => {
  const { source } = labels;
  const images = `${dataset.name} ${dataset.split}`;
  if (labels.count !== dataset.officialCount)
    throw new RequestError(
      `pseudo-labels: ${source} labels ${labels.count} images but ${images} has ${dataset.officialCount}; give the file made for this dataset.`,
    );
  const { digests, index } = dataset;
  if (labels.digests === undefined || digests === undefined)
    warn?.(`whether ${source} was made for these images is not known: it says nothing of them but their number`);
  else {
    const others = countOthers(labels.digests, { index, digests });
    if (others > 0)
      throw new RequestError(
        `pseudo-labels: ${source} was made for other images: ${others} of the ${index.length} of ${images} differ in name or pixels; cluster these images with advcl cluster, or give the data that were clustered.`,
      );
  }
  for (const k of ks) {
    const values = labels.labels(k);
    const missing = index.reduce((n, at) => n + (values[at] === UNLABELLED ? 1 : 0), 0);
    if (missing > 0)
      throw new RequestError(
        `pseudo-labels: ${source} has no label under K = ${k} for ${missing} of the ${index.length} images of ${images} to train on; cluster them too, or set --limit and --seed to those that were.`,
      );
  }
};
