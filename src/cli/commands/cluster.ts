import { cluster } from "../../cluster/cluster.ts";
import { defineCommand } from "../command.ts";

export const clusterCommand = defineCommand({
  verb: cluster,
  summary: "cluster a teacher's features into pseudo-labels",
  description:
    "Features of a whole dataset by a teacher (any ONNX model, or a run of pretrain), then k-means for each K, to a file for pretrain --pseudo-labels. What is not said of an ONNX teacher is guessed from its file and printed.",
});
