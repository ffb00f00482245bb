/**
 * PGD evaluation of ResNet-18 (the whole attack in one run, weights as constants, batch norms folded as evaluate does) against PyTorch's, channels last: one
 * worker process each, one evaluation of each in turn, medians of wall seconds and of the processor's seconds, which other
 * programs disturb less.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/compare-pgd.js --python PYTHON [--batch 128] [--width 64] [--attack-steps 20]
 *       [--rounds 5] [--threads 2] [--target cpu] [--reference advcl_torch.py] [--provider cuda --device cuda]
 *
 * PYTHON has torch. The last line is one JSON object.
 */
import { advclBranches } from "../../graphs/methods/advcl.ts";
import { classifier } from "../../graphs/nn/classifier.ts";
import { foldedUnit, foldUnits } from "../../graphs/nn/folded.ts";
import { FrozenStore } from "../../graphs/nn/frozen.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import { input } from "../../graphs/onnx/graph.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { random } from "../../src/data/random.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { openOracle } from "../../src/evaluate/attacks/programs.ts";
import { initialTensor } from "../../src/train/initialize.ts";
import { existingPath, readFlags } from "../flags.ts";
import {
  describe,
  machine,
  ourWorker,
  serveTurns,
  shapeFlags,
  shapeOf,
  summarize,
  takeTurns,
  torchWorker,
} from "./side-by-side.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    ...shapeFlags("128", "20"),
    provider: { type: "string", default: "cpu" },
    device: { type: "string", default: "cpu" },
  },
});
const shape = shapeOf(values);
const { batch, width, threads, "attack-steps": attackSteps } = shape;

/** Our half: one evaluation a turn. */
const serve = async (): Promise<void> => {
  const network = { depth: 18, width, stem: "cifar", branches: advclBranches } as const;
  const trial = new Store();
  classifier({ ...network, classes: 10 })(
    new Scope(trial, { mode: "eval", branches: ["pgd"] }),
    input("x", { dtype: "float32", shape: [1, 3, 32, 32] }),
  );
  const weights = new Map<string, Tensor>();
  for (const slots of [trial.parameters, trial.states])
    for (const slot of slots.values()) weights.set(slot.path, initialTensor(slot, 1));
  // As evaluate has a run's classifier: batch norms folded into convolutions.
  const folded = foldUnits(network, weights, advclBranches.indexOf("pgd"));
  const store = new FrozenStore((path) => folded.get(path) ?? weights.get(path));
  const scope = new Scope(store, { mode: "eval", branches: ["pgd"] });
  const layer = classifier({ ...network, classes: 10, unit: foldedUnit });
  const engine = await chooseEngine({ provider: values.provider as "cpu" | "cuda", threads, target: values.target });
  const oracle = openOracle({
    classifier: (x) => layer(scope, x),
    image: [3, 32, 32],
    batch,
    fixed: true,
    load: engine.loadEvaluation,
  });
  const clean = new Float32Array(batch * 3072);
  random(1, 0, 0, "clean").fillUniform(clean, 0, 1);
  const start = new Float32Array(clean.length);
  random(1, 0, 0, "start").fillUniform(start, -8 / 255, 8 / 255);
  start.forEach((v, i) => {
    start[i] = v + clean[i]!;
  });
  const labels = Array.from({ length: batch }, (_, i) => i % 10);
  await serveTurns({ target: engine.target.name }, async () => {
    await oracle.pgd({ norm: "linf", eps: 8 / 255, steps: attackSteps, stepSize: 2 / 255 }, clean, start, labels);
  });
  await oracle.release();
};

const compare = async (): Promise<void> => {
  const on = machine(threads);
  const reference = existingPath("reference", values.reference);
  const contenders = [
    ourWorker(import.meta.url, { ...shape, target: values.target, provider: values.provider }),
    torchWorker("torch", values.python, "pgd", { ...shape, reference, device: values.device }),
  ];
  const rows = summarize(await takeTurns(contenders, { rounds: Number(values.rounds) }));
  console.log(`PGD-${attackSteps}, ResNet-18 width ${width}, batch ${batch} on ${on}, medians of ${values.rounds}`);
  console.log(describe(rows));
  console.log(rows.map(({ name, wall }) => `${name} ${(batch / wall).toFixed(2)} images/s`).join(", "));
  console.log(JSON.stringify({ machine: on, ...shape, contenders: rows }));
};

await (values.worker ? serve() : compare());
