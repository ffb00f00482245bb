/** Images of a dataset as the models take them. */
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { type Dataset, type DatasetName, loadDataset } from "../data/dataset.ts";
import { RequestError } from "../errors.ts";
import type { Reporter } from "../verbs/reporter.ts";
import type { Source } from "./source.ts";

/** Length of a file, for people. */
export const megabytes = ({ length }: Uint8Array): string => `${(length / 1e6).toFixed(1)} MB`;

/** Loads images for a source: of the dataset asked for, or of the run's own; none where neither is known. */
export const loadImagesOf =
  (
    source: Source,
    settings: { readonly dataset?: string | undefined; readonly data?: string | undefined; readonly seed: number },
    { warn }: Pick<Reporter, "warn">,
  ) =>
  async (split: "train" | "test", limit: number, demanded: boolean): Promise<Dataset | undefined> => {
    const trained = source.run.config.settings;
    const name = (settings.dataset ?? trained.dataset) as DatasetName | undefined;
    const data = settings.data ?? (settings.dataset === undefined ? (trained.data as string | undefined) : undefined);
    if (name === undefined) {
      if (demanded) throw new RequestError("no images are known: give --dataset and --data");
      return undefined;
    }
    try {
      return await loadDataset({ name, data, split, size: source.network.size, limit, seed: settings.seed });
    } catch (error) {
      if (demanded || settings.dataset !== undefined) throw error;
      warn(`accuracy is not measured: ${(error as Error).message}`);
      return undefined;
    }
  };

/** Images from `start` to before `end` as float32 [n,3,H,W] in [0, 1]. */
export const floatImages = ({ images, height, width }: Dataset, start: number, end: number): Tensor<"float32"> => {
  const each = 3 * height * width;
  const data = new Float32Array((end - start) * each);
  for (let i = 0; i < data.length; i++) data[i] = (images[start * each + i] as number) / 255;
  return tensor("float32", [end - start, 3, height, width], data);
};

/** The same as uint8 [n,H,W,3], as photographs come. */
export const photoImages = ({ images, height, width }: Dataset, start: number, end: number): Tensor<"uint8"> => {
  const plane = height * width;
  const data = new Uint8Array((end - start) * 3 * plane);
  for (let n = 0; n < end - start; n++)
    for (let c = 0; c < 3; c++)
      for (let p = 0; p < plane; p++)
        data[(n * plane + p) * 3 + c] = images[((start + n) * 3 + c) * plane + p] as number;
  return tensor("uint8", [end - start, height, width, 3], data);
};
