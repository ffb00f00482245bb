/** A loss that is not finite: what led to it is kept for whoever looks. */
import { join } from "node:path";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { ofKind } from "../../graphs/steps/names.ts";
import { alone, type Collective } from "../distributed/collective.ts";
import { RunError } from "../errors.ts";
import { writeSafetensors } from "../files/safetensors.ts";
import { divergedFolder, type RunFolder } from "../runs/run-folder.ts";

interface Diverging {
  readonly run: RunFolder;
  /** Whether `advcl step` replays such a step. */
  readonly replay?: boolean;
  readonly collective?: Collective;
}

export const allFinite = (metrics: Readonly<Record<string, number>>): boolean =>
  Object.values(metrics).every(Number.isFinite);

/** Keeps what led to a loss that is not finite, of pretraining in the form that `advcl step` replays, and says so. */
export const diverged = async (
  { run, replay, collective = alone }: Diverging,
  step: number,
  feeds: Readonly<Record<string, Tensor>>,
  metrics: Readonly<Record<string, number>>,
): Promise<RunError> => {
  const weights = join(run.path, divergedFolder, "weights.safetensors");
  const batch = join(run.path, divergedFolder, "batch.safetensors");
  // Weights are the same on every rank, and the first writes.
  if (collective.rank === 0) await writeSafetensors(weights, { ...ofKind("param", feeds), ...ofKind("state", feeds) });
  if (collective.rank === 0) await writeSafetensors(batch, ofKind("input", feeds));
  const remedy = replay ? " (replay them with advcl step)" : "";
  const bad = Object.entries(metrics).filter(([, value]) => !Number.isFinite(value));
  return new RunError(
    `${bad.map(([name, value]) => `${name} is ${value}`).join(", ")} at step ${step}: the last checkpoint is kept and the step's inputs are in ${weights} and ${batch}${remedy}; go on from there with --resume and a lower --lr`,
  );
};
