import { outputName, type What, whats } from "../../graphs/deploy/network.ts";
import { bind } from "../../graphs/deploy/rewrite.ts";
import { toFloat16 } from "../../graphs/onnx/float16.ts";
import type { Value } from "../../graphs/onnx/graph.ts";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { writeFileAtomic } from "../atomic.ts";
import { type Context, defineCommand } from "../command.ts";
import { type Dataset, type DatasetName, datasetNames, loadDataset } from "../data/dataset.ts";
import { chooseEngine } from "../engine.ts";
import { RequestError } from "../errors.ts";
import { accuracyOf, attackImages, cleanImages } from "../export/accuracy.ts";
import { authorsWeights, layouts, torchvisionWeights, type WeightLayout } from "../export/layout.ts";
import { classNames, metadataOf } from "../export/metadata.ts";
import { type ExportOptions, exportModel, floatGraph, precisions } from "../export/model.ts";
import { deployedOptions, openSource, type Source } from "../export/source.ts";
import { writeSafetensors } from "../safetensors.ts";

export const exportCommand = defineCommand({
  name: "export",
  summary: "write a trained encoder or classifier for other runtimes",
  description:
    "Writes the network of a run as a plain ONNX file (opset 17, IR 8, standard ops; any batch size): one batch-norm branch, folded into the convolutions. A classifier's accuracy, and its robust accuracy under PGD-20 on L-inf 8/255, are measured on test images where a dataset is known; the adversarial images are made through the float32 classifier, so that for fp16 and int8 the attack is a transferred one.",
  settings: {
    from: { type: "path", required: true, help: "run folder to export" },
    out: { type: "path", required: true, help: "file to write" },
    what: {
      type: "enum",
      values: [...whats, "auto"],
      default: "auto",
      help: "auto: the classifier where there is one",
    },
    format: { type: "enum", values: ["onnx", "safetensors"], default: "onnx", help: "kind of file" },
    layout: {
      type: "enum",
      values: layouts,
      default: "authors",
      help: "names in a safetensors file: the whole network as the authors' code has it, or one branch as torchvision's ResNet",
    },
    branch: { type: "string", default: "auto", help: "batch-norm branch; auto: the one that the run is evaluated by" },
    precision: { type: "enum", values: precisions, default: "fp32", help: "of weights and activations" },
    io: {
      type: "enum",
      values: ["float32", "float16"],
      default: "float32",
      help: "element type of the inputs and outputs of fp16",
    },
    preprocess: {
      type: "boolean",
      default: false,
      help: "take photographs (uint8, batch × height × width × RGB) of any size, resized and scaled inside",
    },
    dataset: { type: "enum", values: datasetNames, help: "images to calibrate and measure on (default: the run's)" },
    data: { type: "path", help: "folder or archive of that dataset (default: the run's)" },
    calibrationImages: { type: "integer", default: 256, min: 1, help: "training images that int8 is calibrated on" },
    limit: { type: "integer", default: 500, min: 0, help: "test images to measure accuracy on; 0 measures nothing" },
  },
  run: async (settings, context) => {
    const source = await openSource(settings.from, settings.branch, context.warn);
    const what = settings.what === "auto" ? (source.classes === undefined ? "encoder" : "classifier") : settings.what;
    if (settings.format === "safetensors") return exportWeights(source, what, settings, context);
    const options = deployedOptions(source, what, settings.from);
    const engine = await chooseEngine(settings);
    const load = datasetOf(source, settings, context);
    const calibration =
      settings.precision === "int8" ? await load("train", settings.calibrationImages, true) : undefined;
    const test = what === "classifier" && settings.limit > 0 ? await load("test", settings.limit, false) : undefined;
    const base = { ...options, preprocess: settings.preprocess };
    const build = (chosen: Pick<ExportOptions, "precision" | "io" | "preprocess" | "metadata">) =>
      exportModel({ ...base, ...chosen }, source.weights, source.branch?.index, calibration, engine.options);
    const chosen = { precision: settings.precision, io: settings.io, preprocess: settings.preprocess };
    const accuracies: Record<string, number> = {};
    if (test?.labels !== undefined) {
      const bare = { ...chosen, preprocess: false, metadata: {} };
      const models = { fp32: await build({ ...bare, precision: "fp32" }), [settings.precision]: await build(bare) };
      const { image, outputs } = floatGraph(options, source.weights, source.branch?.index);
      const logits = (x: Value): Value => bind({ logits: outputs.logits as Value }, new Map([[image, x]])).logits;
      const attacked = await attackImages(
        logits,
        test,
        { eps: 8 / 255, stepSize: 2 / 255, steps: 20 },
        settings.seed,
        engine.options,
      );
      for (const [precision, model] of Object.entries(models)) {
        const half = precision === "fp16" && settings.io === "float16";
        const prepare = half ? halvedImages : undefined;
        for (const [kind, images] of [
          ["clean", cleanImages(test)],
          ["pgd20", attacked],
        ] as const)
          accuracies[`${kind} ${precision}`] = await accuracyOf(
            model.bytes,
            images,
            test.labels,
            prepare,
            engine.options,
          );
      }
      for (const precision of Object.keys(models))
        context.print(
          `${precision}: accuracy ${percent(accuracies[`clean ${precision}`])}, under PGD-20 ${percent(accuracies[`pgd20 ${precision}`])} (${test.count} test images)`,
        );
    }
    const classes = classNames(source.classes ?? 0, test?.classes);
    const metadata = metadataOf({ ...chosen, source, what, classes, accuracies });
    const model = await build({ ...chosen, metadata });
    await writeFileAtomic(settings.out, model.bytes);
    context.print(
      `${settings.out}: ${what} of ${settings.from}${source.branch === undefined ? "" : `, branch ${source.branch.name}`}, ${settings.precision}, ${(model.bytes.length / 1e6).toFixed(1)} MB, output ${outputName(what)}`,
    );
    context.result({
      out: settings.out,
      what,
      precision: settings.precision,
      branch: source.branch?.name ?? null,
      bytes: model.bytes.length,
      accuracies,
    });
  },
});

/** Writes the weights of a run for PyTorch. */
const exportWeights = async (
  source: Source,
  what: What,
  { layout, out }: { readonly layout: WeightLayout; readonly out: string },
  context: Context,
): Promise<void> => {
  const tensors = layout === "authors" ? authorsWeights(source) : torchvisionWeights(source, what === "classifier");
  const kept = source.run.checkpoint.state.metadata as Record<string, string> | undefined;
  await writeSafetensors(out, tensors, kept ?? {});
  context.print(`${out}: ${tensors.size} tensors of ${source.folder} in the names of ${layout}`);
  context.result({ out, tensors: tensors.size, layout });
};

const percent = (share: number | undefined): string => `${(100 * (share ?? 0)).toFixed(2)} %`;

const halvedImages = (images: Tensor): Tensor =>
  tensor("float16", images.shape, toFloat16(images.data as Float32Array));

/** Loads images for a source: of the dataset asked for, or of the run's own; none where neither is known. */
export const datasetOf =
  (
    source: Source,
    settings: { readonly dataset?: string | undefined; readonly data?: string | undefined; readonly seed: number },
    context: Pick<Context, "warn">,
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
      const found = await loadDataset({ name, data, split, size: source.network.size, limit, seed: settings.seed });
      return found;
    } catch (error) {
      if (demanded || settings.dataset !== undefined) throw error;
      context.warn(`accuracy is not measured: ${(error as Error).message}`);
      return undefined;
    }
  };
