/**
 * k-means against scikit-learn's, on the same features of real images: run this, then scripts/benchmarks/k-means.py.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/k-means.js DATASET DATA IMAGES OUT.safetensors K,K,… [RESTARTS]
 *     python scripts/benchmarks/k-means.py OUT.safetensors
 *
 * Features are a fixed random projection of the pixels to 512 numbers, and ReLU.
 */
import { input } from "../../graphs/onnx/graph.ts";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { matMul, relu } from "../../graphs/ops/index.ts";
import { normalizedMutualInformation, purity } from "../../src/cluster/agreement.ts";
import { kMeans } from "../../src/cluster/k-means.ts";
import { createPoints } from "../../src/cluster/points.ts";
import { type DatasetName, loadDataset } from "../../src/data/dataset.ts";
import { random } from "../../src/data/random.ts";
import { availableCores } from "../../src/engine/cores.ts";
import { createSession } from "../../src/engine/session.ts";
import { writeSafetensors } from "../../src/files/safetensors.ts";
import { imageBatch } from "../../src/models/images.ts";
import { readFlags } from "../flags.ts";

const [name = "cifar10", data, limit = "5000", out = "features.safetensors", ks = "10,100,500", restarts = "1"] =
  readFlags(import.meta.url, { allowPositionals: true }).positionals;
const dim = 512;
const batch = 500;
const engine = { threads: availableCores() };

const dataset = await loadDataset({ name: name as DatasetName, data, split: "train", limit: Number(limit), size: 32 });
const pixels = 3 * 32 * 32;
const weight = new Float32Array(pixels * dim);
random(0, 0, 0, "projection").fillNormal(weight, Math.sqrt(2 / pixels));
const x = input("x", { dtype: "float32", shape: [batch, pixels] });
const w = input("w", { dtype: "float32", shape: [pixels, dim] });
const project = await createSession(buildModel({ y: relu(matMul(x, w)) }), engine);
const features = new Float32Array(dataset.count * dim);
for (let from = 0; from < dataset.count; from += batch) {
  const images = imageBatch(dataset, from, batch);
  const flat = tensor("float32", [batch, pixels], images.data);
  const { y } = await project.run({ x: flat, w: tensor("float32", [pixels, dim], weight) });
  const rows = Math.min(batch, dataset.count - from);
  features.set(((y as Tensor).data as Float32Array).subarray(0, rows * dim), from * dim);
}
await project.release();

const tensors = new Map<string, Tensor>([["features", tensor("float32", [dataset.count, dim], features.slice())]]);
if (dataset.labels) tensors.set("classes", tensor("int32", [dataset.count], dataset.labels));
const metadata: Record<string, string> = {};
const points = createPoints(features, dim);
for (const k of ks.split(",").map(Number)) {
  const found = await kMeans(points, {
    k,
    seed: 0,
    restarts: Number(restarts),
    maxPasses: 300,
    tolerance: 1e-4,
    engine,
  });
  const figures = {
    inertia: found.inertia,
    passes: found.passes,
    ...(dataset.labels && {
      purity: purity(found.labels, dataset.labels),
      nmi: normalizedMutualInformation(found.labels, dataset.labels),
    }),
  };
  console.log(`advcl k=${k}`, JSON.stringify(figures));
  metadata[`k${k}`] = JSON.stringify({ ...figures, restarts: Number(restarts) });
  tensors.set(`labels_${k}`, tensor("int32", [dataset.count], found.labels));
}
await writeSafetensors(out, tensors, metadata);
