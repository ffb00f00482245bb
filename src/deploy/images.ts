/** Images of a dataset as the models take them. */
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
      const { seed } = settings;
      const testShare = typeof trained.testShare === "number" ? trained.testShare : undefined;
      const skipBroken = trained.skipBroken === true;
      const size = source.network.size;
      return await loadDataset({ name, data, split, size, limit, seed, testShare, skipBroken, warn });
    } catch (error) {
      if (demanded || settings.dataset !== undefined) throw error;
      warn(`accuracy is not measured: ${(error as Error).message}`);
      return undefined;
    }
  };
