import { readFile } from "node:fs/promises";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import { readPickledArrays } from "../files/pickle.ts";
import { readSafetensors, writeSafetensors } from "../files/safetensors.ts";
import type { Dataset } from "./dataset.ts";

/** Cluster indices of every image of a split under several numbers of clusters K (ClusterFit, ALGORITHM.md 6). */
export interface PseudoLabels {
  /** The K there are, ascending. */
  readonly ks: readonly number[];
  /** Images of the full official split, in the order of its files. */
  readonly count: number;
  /** Where they come from, for messages. */
  readonly source: string;
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
 * @throws RequestError where the arrays differ in length or a label is neither 0 to K-1 nor UNLABELLED
 */
export const pseudoLabels = (byK: ReadonlyMap<number, ArrayLike<number>>, source: string): PseudoLabels => {
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
  return {
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

const readArrays = async (path: string): Promise<Map<string, ArrayLike<number>>> => {
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw fileError(cause, "read", path);
  });
  // A safetensors file starts with the header's length in eight bytes, then JSON.
  if (path.endsWith(".safetensors") || bytes[8] === 0x7b) {
    const { tensors } = await readSafetensors(path);
    return new Map(
      [...tensors]
        .filter(([name]) => name.startsWith("pseudo_"))
        .map(([name, value]) => [name, fromTensor(path, name, value)]),
    );
  }
  try {
    const arrays = readPickledArrays(bytes);
    return new Map([...arrays].map(([name, { values }]) => [name, values]));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RequestError(
      `pseudo-labels: ${path} is neither safetensors nor a pickle that can be read: ${reason}; give a file with pseudo_train_K arrays.`,
      { cause },
    );
  }
};

/**
 * Reads pseudo-labels: safetensors, or the pickle of the authors' code.
 * @param split which arrays: `pseudo_train_K` or `pseudo_test_K`
 * @throws RequestError where the file cannot be read or its labels are not what they should be
 */
export const readPseudoLabels = async (path: string, split: "train" | "test" = "train"): Promise<PseudoLabels> => {
  const arrays = await readArrays(path);
  const byK = new Map<number, ArrayLike<number>>();
  for (const [name, values] of arrays) {
    const match = new RegExp(`^pseudo_${split}_0*([1-9]\\d*)$`).exec(name);
    if (match) byK.set(Number(match[1]), values);
  }
  if (byK.size === 0)
    throw fault(path, `has no pseudo_${split}_K arrays (it has ${[...arrays.keys()].join(", ") || "none at all"})`);
  return pseudoLabels(byK, path);
};

/** Writes pseudo-labels as safetensors, int32 `pseudo_train_K` [count]. */
export const writePseudoLabels = async (
  path: string,
  labels: Pick<PseudoLabels, "ks" | "labels">,
  metadata: Readonly<Record<string, string>> = {},
  split: "train" | "test" = "train",
): Promise<void> =>
  writeSafetensors(
    path,
    new Map(
      labels.ks.map((k) => {
        const values = labels.labels(k);
        return [`pseudo_${split}_${k}`, tensor("int32", [values.length], values)];
      }),
    ),
    metadata,
  );

/**
 * Checks that pseudo-labels are of this dataset's split and have every K in `ks` for each of its images.
 * @throws RequestError that names both counts, or the K there are, or how many images have no label
 */
export const checkPseudoLabels = (
  labels: PseudoLabels,
  dataset: Pick<Dataset, "name" | "split" | "officialCount" | "index">,
  ks: readonly number[],
): void => {
  if (labels.count !== dataset.officialCount)
    throw new RequestError(
      `pseudo-labels: ${labels.source} labels ${labels.count} images but ${dataset.name} ${dataset.split} has ${dataset.officialCount}; give the file made for this dataset.`,
    );
  for (const k of ks) {
    const values = labels.labels(k);
    const missing = dataset.index.reduce((n, at) => n + (values[at] === UNLABELLED ? 1 : 0), 0);
    if (missing > 0)
      throw new RequestError(
        `pseudo-labels: ${labels.source} has no label under K = ${k} for ${missing} of the ${dataset.index.length} images of ${dataset.name} ${dataset.split} to train on; cluster them too, or set --limit to those that were.`,
      );
  }
};
