import { exportModel } from "../../deploy/export.ts";
import { defineCommand } from "../command.ts";

export const exportCommand = defineCommand({
  verb: exportModel,
  summary: "write a trained encoder or classifier for other runtimes",
  description:
    "onnx: a plain ONNX file (opset 17, of int8 19, IR 8, standard ops; any batch size) of one batch-norm branch, folded into the convolutions. A classifier's accuracy, and its robust accuracy under PGD-20 on L-inf 8/255, are measured on test images where a dataset is known; the adversarial images are made through the float32 classifier, so that for fp16 and int8 the attack is a transferred one. safetensors: the weights in PyTorch's names, to be loaded with strict=True. ort-training: graphs and checkpoint for training in a browser or in Node with onnxruntime-web 1.17 to 1.19.2 (entry onnxruntime-web/training); manifest.json tells what is in them.",
});
