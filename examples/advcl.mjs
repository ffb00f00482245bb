/** AdvCL end to end through the library alone, on generated images. */
import { evaluate, exportModel, finetune, pretrain } from "advcl";

const images = { dataset: /** @type {const} */ ("shapes"), limit: 256 };
const small = { size: 16, width: 4, batch: 32, radius: 4, attackSteps: 2, epochs: 2, lr: 0.02 };

const encoder = await pretrain({ ...images, ...small, clusters: [], out: "run/encoder" });
const head = await finetune({
  ...images,
  scheme: "slf",
  from: encoder.out,
  batch: 32,
  epochs: 3,
  lr: 0.1,
  out: "run/slf",
});
const { attacks } = await evaluate({ ...images, limit: 100, model: head.out, attacks: ["clean", "pgd10"] });
const { out } = await exportModel({ from: head.out, limit: 0, out: "run/classifier.onnx" });
console.log(JSON.stringify({ loss: encoder.metrics.loss, clean: attacks.clean, pgd10: attacks.pgd10, out }));
