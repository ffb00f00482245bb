/**
 * Takes some steps of adversarial training on the models of scripts/fixtures/foreign_models.py: each must be read, move its
 * weights so that the loss on one batch falls, be written back and load.
 *
 *     npm run build && node dist/scripts/parity/check-harden.js FOLDER [NAME…]
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseModel } from "../../graphs/onnx/parse.ts";
import { float32, sizeOf, type Tensor, tensor, zeros } from "../../graphs/onnx/tensor.ts";
import { hardenStep } from "../../graphs/steps/harden.ts";
import { random } from "../../src/data/random.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { createRunner } from "../../src/engine/runner.ts";
import { createSession } from "../../src/engine/session.ts";
import { loadClassifier } from "../../src/models/classifier.ts";
import { trainable } from "../../src/train/harden/model.ts";
import { patchWeights } from "../../src/train/harden/patch.ts";
import { readFlags } from "../flags.ts";

const [folder = ".", ...only] = readFlags(import.meta.url, { allowPositionals: true }).positionals;
const engine = await chooseEngine({ provider: "cpu", threads: 1 });
for (const file of readdirSync(folder)
  .filter((name) => name.endsWith(".onnx") && (only.length === 0 || only.some((o) => name.startsWith(o))))
  .sort()) {
  try {
    const bytes = readFileSync(join(folder, file));
    const open = typeof parseModel(bytes).inputs[0]?.dims[2] !== "number";
    const loaded = await loadClassifier(join(folder, file), { size: open ? 64 : undefined, warn: () => {} });
    const batch = loaded.fixedBatch ?? 4;
    const { image } = loaded;
    const model = trainable(loaded, batch);
    const attack = { attackSteps: 1, eps: 4 / 255, stepSize: 4 / 255 };
    const options = { ...attack, objective: "pgd", beta: 6, batch, image, momentum: 0, weightDecay: 0 } as const;
    const step = hardenStep(options, model.classify);
    const held = new Map<string, Tensor>();
    for (const { path } of step.store.parameters.values()) held.set(`param.${path}`, model.weights.get(path) as Tensor);
    for (const { path, type } of step.store.states.values()) held.set(`state.${path}`, zeros("float32", type.shape));
    const runner = await createRunner(engine, step, held);
    const shape = [batch, ...image];
    const clean = new Float32Array(sizeOf(shape));
    random(0, 0, 0, "check").fillUniform(clean, 0, 1);
    const feeds = {
      "input.clean": float32(shape, clean),
      "input.label": tensor(
        "int32",
        [batch],
        Int32Array.from({ length: batch }, (_, i) => i % 10),
      ),
      "input.start": zeros("float32", shape),
      "input.lr": float32([], [1e-3]),
      "input.strength": float32([], [1]),
    };
    const losses: number[] = [];
    const start = performance.now();
    for (let i = 0; i < 4; i++) {
      losses.push(Number((await runner.run(feeds))["metric.loss"]?.data[0]));
      runner.accept();
    }
    const seconds = (performance.now() - start) / 4000;
    const after = await runner.tensors();
    await runner.release();
    const names = [...model.weights.keys()];
    // Without momentum its buffer is the last gradient; a small one may round away when the weight moves.
    const moved = names.filter((name) => (after.get(`state.momentum.${name}`) as Tensor).data.some((v) => v !== 0));
    const patched = patchWeights(
      loaded.model?.bytes ?? bytes,
      new Map(names.map((name) => [name, after.get(`param.${name}`) as Tensor])),
      {},
    );
    await (await createSession(patched)).release();
    const falls = (losses.at(-1) as number) < losses[0]!;
    console.log(
      `${file.padEnd(28)} ${falls ? "falls" : "STAYS"} ${losses.map((l) => l.toFixed(3)).join(" → ")}, ${moved.length} of ${names.length} weights have a gradient, ${seconds.toFixed(2)} s a step`,
    );
  } catch (error) {
    console.log(`${file.padEnd(28)} ${String(error).split("\n")[0]}`);
  }
}
