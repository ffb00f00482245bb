/** Images of a dataset as the models take them. */
import { type Dataset, type DatasetName, type DatasetOptions, loadDataset } from "../data/dataset.ts";
import { RequestError } from "../errors.ts";
import { placeOf } from "../runs/config.ts";
import type { Reporter } from "../verbs/reporter.ts";
import type { Source } from "./source.ts";

/** Length of a file, for people. */
export const megabytes = ({ length }: Uint8Array): string => `${(length / 1e6).toFixed(1)} MB`;

interface ImageRequest {
  readonly dataset?: string | undefined;
  readonly data?: string | undefined;
  readonly seed: number;
}

/** The images of a source: of the dataset asked for, or of the run's own; undefined where neither is known. */
export const imagesOf = (
  source: Source,
  { dataset, data, seed }: ImageRequest,
  split: "train" | "test",
  limit: number,
  warn: Reporter["warn"],
): DatasetOptions | undefined => {
  const trained = source.run.config.settings;
  const name = (dataset ?? trained.dataset) as DatasetName | undefined;
  if (name === undefined) return undefined;
  const testShare = typeof trained.testShare === "number" ? trained.testShare : undefined;
  const place =
    data ?? (dataset === undefined ? (placeOf(source.run.config, "data") as string | undefined) : undefined);
  const skipBroken = trained.skipBroken === true;
  return { name, data: place, split, size: source.network.size, limit, seed, testShare, skipBroken, warn };
};

/** Loads images for a source; none where it is not known which. */
export const loadImagesOf =
  (source: Source, settings: ImageRequest, { warn }: Pick<Reporter, "warn">) =>
  async (split: "train" | "test", limit: number, demanded: boolean): Promise<Dataset | undefined> => {
    const options = imagesOf(source, settings, split, limit, warn);
    if (options === undefined) {
      if (demanded) throw new RequestError("no images are known: give --dataset and --data");
      return undefined;
    }
    try {
      return await loadDataset(options);
    } catch (error) {
      if (demanded || settings.dataset !== undefined) throw error;
      warn(`accuracy is not measured: ${(error as Error).message}`);
      return undefined;
    }
  };
