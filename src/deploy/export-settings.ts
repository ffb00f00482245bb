/** Settings of exporting; those of one format stand under its name. */
import { z } from "zod";
import { networkParts } from "../../graphs/deploy/network.ts";
import { datasetNames } from "../data/dataset.ts";
import { matchSetting } from "../settings/fragments.ts";
import { path, setting } from "../settings/schema.ts";
import type { Resolved } from "../settings/spec.ts";
import { layouts } from "./export-layout.ts";
import { precisions } from "./model.ts";

const onnx = { group: "onnx" };
const training = { group: "ort-training" };

const onnxSettings = {
  precision: setting(z.enum(precisions).default("fp32"), "of weights and activations", onnx),
  io: setting(
    z.enum(["float32", "float16"]).default("float32"),
    "element type of the inputs and outputs of fp16",
    onnx,
  ),
  preprocess: setting(
    z.boolean().default(false),
    "take photographs (uint8, batch × height × width × RGB) of any size, of which the central square is resized and scaled inside",
    onnx,
  ),
  dataset: setting(z.enum(datasetNames).optional(), "images to calibrate and measure on (default: the run's)", onnx),
  data: setting(path().optional(), "folder or archive of that dataset (default: the run's)", { ...onnx, path: true }),
  ...matchSetting,
  calibrationImages: setting(z.int().min(1).default(256), "training images that int8 is calibrated on", onnx),
  limit: setting(z.int().min(0).default(500), "test images to measure accuracy on; 0 measures nothing", onnx),
};

const trainingSettings = {
  trains: setting(
    z.enum(["head", "all"]).default("head"),
    "a linear probe, or the encoder too (batch norms stay folded, as in evaluation mode)",
    training,
  ),
  classes: setting(z.int().min(2).optional(), "classes of a fresh head (default: the run's head)", training),
  batch: setting(z.int().min(1).default(16), "images of a training step", training),
  momentum: setting(z.number().min(0).max(1).default(0.9), "of SGD", training),
  weightDecay: setting(z.number().min(0).default(2e-4), "on every parameter", training),
};

export const exportSettings = {
  from: setting(path(), "run to export: its folder, its file by export, or the name of one that ships", { path: true }),
  out: setting(path(), "file to write; for ort-training a folder", { path: true }),
  what: setting(z.enum([...networkParts, "auto"]).default("auto"), "auto: the classifier where there is one"),
  format: setting(z.enum(["onnx", "safetensors", "ort-training"]).default("onnx"), "what to write"),
  branch: setting(z.string().default("auto"), "batch-norm branch; auto: the one that the run is evaluated by"),
  ...onnxSettings,
  layout: setting(
    z.enum([...layouts, "auto"]).default("auto"),
    "names: the whole network as the authors' code has it, or one branch as torchvision's ResNet (RobustBench's PreAct-ResNet and WideResNet); auto: the authors' where the run holds every branch",
    { group: "safetensors" },
  ),
  ...trainingSettings,
};

/** Settings of exporting, each checked and with its default. */
export type ExportSettings = Resolved<typeof exportSettings>;
