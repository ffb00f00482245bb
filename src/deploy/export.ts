/** Export of trained encoders and classifiers for other runtimes. */
import type { NetworkPart } from "../../graphs/deploy/network.ts";
import { checkWritable } from "../files/atomic.ts";
import { writeSafetensors } from "../files/safetensors.ts";
import { networkRecord } from "../runs/network.ts";
import { runMetadata } from "../runs/run-file.ts";
import type { Reporter } from "../verbs/reporter.ts";
import { defineVerb, type VerbContext } from "../verbs/verb.ts";
import { authorsWeights, isWhole, torchvisionWeights, type WeightLayout } from "./export-layout.ts";
import { exportOnnx, type OnnxExport } from "./export-onnx.ts";
import { type ExportSettings, exportSettings } from "./export-settings.ts";
import { exportTraining, type TrainingExport } from "./export-training.ts";
import { openSource, type Source } from "./source.ts";

/** Weights in PyTorch's names that were written. */
export interface WeightsExport {
  /** The safetensors file. */
  readonly out: string;
  /** Number of tensors in it. */
  readonly tensors: number;
  readonly layout: WeightLayout;
}

/** What was written, by the format that was asked for: `onnx`, `safetensors` or `ort-training`. */
export type ExportResult = OnnxExport | WeightsExport | TrainingExport;

const exportWeights = async (
  source: Source,
  what: NetworkPart,
  { out, ...settings }: ExportSettings,
  reporter: Reporter,
): Promise<WeightsExport> => {
  const layout = settings.layout === "auto" ? (isWhole(source) ? "authors" : "torchvision") : settings.layout;
  const { normalisation } = source.network;
  if (layout === "torchvision" && normalisation !== undefined)
    reporter.warn(
      `the torchvision layout holds no normalisation, and this network wants one: give it (x - mean) / std of pixels in [0, 1] with mean ${normalisation.mean.join(",")} and std ${normalisation.std.join(",")}, or write --layout authors`,
    );
  const tensors = layout === "authors" ? authorsWeights(source) : torchvisionWeights(source, what === "classifier");
  const { config, checkpoint } = source.run;
  const kept = checkpoint.state.metadata as Record<string, string> | undefined;
  const network = networkRecord({ ...source.network, ...(layout === "torchvision" && { branches: undefined }) });
  // Weights that came from elsewhere go out with the same bytes.
  const told = config.command === "import" ? {} : runMetadata(source.run, { tensors, layout, network });
  await writeSafetensors(out, tensors, { ...kept, ...told });
  reporter.print(`${out}: ${tensors.size} tensors of ${source.folder} in the names of ${layout}`);
  return { out, tensors: tensors.size, layout };
};

const run = async (settings: ExportSettings, context: VerbContext): Promise<ExportResult> => {
  const source = await openSource(settings.from, settings.branch, context.warn);
  const what = settings.what === "auto" ? (source.classes === undefined ? "encoder" : "classifier") : settings.what;
  if (settings.format === "ort-training") return exportTraining(source, settings, context);
  await checkWritable(settings.out);
  return (settings.format === "onnx" ? exportOnnx : exportWeights)(source, what, settings, context);
};

/**
 * Writes one batch-norm branch of a run (`from`) to `out`: as an ONNX file, as weights in PyTorch's names, or as a folder
 * for on-device training.
 *
 * @throws RequestError where the run lacks what is asked for, or `out` cannot be written
 */
export const exportModel = defineVerb({ name: "export", settings: exportSettings }, run);
