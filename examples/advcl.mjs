/** AdvCL end to end through the library alone, on generated images: node examples/advcl.mjs [FOLDER] */
import { evaluate, exportModel, finetune, pretrain } from "advcl";

const folder = process.argv[2] ?? "artifacts/example";
const reporter = { log: console.error, warn: console.error, print: console.log, progress: () => quiet };
const quiet = { update: () => {}, stop: () => {} };
const images = { dataset: "shapes", limit: 256 };
const small = { size: 16, width: 4, batch: 32, workers: 0 };

// Contrastive pretraining under attack, without labels.
const encoder = await pretrain(
  { ...images, ...small, clusters: [], radius: 4, attackSteps: 2, epochs: 2, lr: 0.02, out: `${folder}/encoder` },
  { reporter },
);

// A linear head on the frozen encoder (SLF).
const classifier = await finetune(
  { ...images, scheme: "slf", from: encoder.out, batch: 32, epochs: 3, lr: 0.1, testLimit: 100, out: `${folder}/slf` },
  { reporter },
);

// Accuracy on clean images and under PGD; then a plain ONNX file.
const { attacks } = await evaluate({ ...images, model: classifier.out, attacks: ["clean", "pgd10"], limit: 100 });
const { out } = await exportModel({ from: classifier.out, limit: 0, out: `${folder}/classifier.onnx` });
console.log(
  JSON.stringify({ loss: encoder.metrics.loss, clean: attacks.clean.accuracy, pgd10: attacks.pgd10.accuracy, out }),
);
