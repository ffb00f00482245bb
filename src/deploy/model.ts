/** Exported models: what of a network, in which precision, as ONNX bytes. */
import { halved } from "../../graphs/deploy/half.ts";
import {
  type DeployedOptions,
  deployed,
  deployedWeights,
  outputName,
  withWeights,
} from "../../graphs/deploy/network.ts";
import { photograph } from "../../graphs/deploy/photograph.ts";
import { quantized } from "../../graphs/deploy/quantize.ts";
import { bind } from "../../graphs/deploy/rewrite.ts";
import { MissingWeight, type Weights } from "../../graphs/nn/folded.ts";
import type { Value } from "../../graphs/onnx/graph.ts";
import { buildModel, type Model } from "../../graphs/onnx/write.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import type { Dataset } from "../data/dataset.ts";
import type { SessionOptions } from "../engine/session.ts";
import { RequestError } from "../errors.ts";
import { calibrate } from "./calibrate.ts";

export const precisions = ["fp32", "fp16", "int8"] as const;
export type Precision = (typeof precisions)[number];

export interface ExportOptions extends DeployedOptions {
  readonly precision: Precision;
  /** Element type of the inputs and outputs of fp16. */
  readonly io: "float32" | "float16";
  /** Take photographs, uint8 NHWC, instead of float32 NCHW. */
  readonly preprocess: boolean;
  /** Outputs besides the one that the export is about: `features`. */
  readonly also?: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
}

/** The network of an export with its weights inside, in float32; its batch is `batch` images. */
export const floatGraph = (
  options: DeployedOptions,
  weights: Weights,
  branch: number | undefined,
): { readonly image: Value; readonly outputs: Record<string, Value> } => {
  const network = deployed(options);
  try {
    return { image: network.image, outputs: withWeights(network, deployedWeights(options, weights, branch)) };
  } catch (error) {
    if (error instanceof MissingWeight) throw new RequestError(`${error.message}; give a run of this network`);
    throw error;
  }
};

/**
 * Builds the file. int8 needs `calibration` images.
 *
 * @returns the model; the first dimension of its input and outputs is open, named `batch`
 */
export const buildExport = async (
  options: ExportOptions,
  weights: Weights,
  branch: number | undefined,
  calibration: Dataset | undefined,
  session: SessionOptions = {},
): Promise<Model> => {
  const { precision, io, what, size, preprocess, also = [], metadata } = options;
  const batch = precision === "int8" ? Math.min(16, calibration?.count ?? 1) : 1;
  const { image, outputs } = floatGraph({ ...options, batch }, weights, branch);
  const names = [outputName(what), ...also];
  let chosen = Object.fromEntries(names.map((name) => [name, outputs[name]!]));
  if (precision === "fp16") chosen = halved(chosen, preprocess ? "float32" : io);
  if (precision === "int8") {
    if (calibration === undefined)
      throw new RequestError("int8 is calibrated on images: give --dataset and --data, or another --precision");
    const { ranges, shifts } = await calibrate(chosen, image, calibration, session);
    chosen = quantized(chosen, ranges, shifts);
  }
  if (preprocess) chosen = bind(chosen, new Map([[image, photograph(batch, size).image]]));
  return buildModel(lower(chosen, portable), [], {
    name: what,
    // onnx's reference evaluator reads DequantizeLinear from 19 on only.
    opset: precision === "int8" ? 19 : 17,
    metadata,
    dynamic: {
      image: preprocess ? ["batch", "height", "width"] : ["batch"],
      ...Object.fromEntries(names.map((name) => [name, ["batch"]])),
    },
  });
};
