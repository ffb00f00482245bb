/**
 * Reads the models of scripts/fixtures/foreign_models.py, differentiates Σ weights·logits by the input, and prints how far
 * logits and gradients are from PyTorch's (relative L2).
 *
 *     npm run build && node dist/scripts/compare-foreign.js FOLDER [NAME…]
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { grad } from "../graphs/autodiff/grad.ts";
import { readModel } from "../graphs/import/read.ts";
import { constant, type Value } from "../graphs/onnx/graph.ts";
import type { Tensor } from "../graphs/onnx/tensor.ts";
import { buildModel } from "../graphs/onnx/write.ts";
import { mul, reduceSum } from "../graphs/ops/index.ts";
import { lower } from "../graphs/targets/lower.ts";
import { portable } from "../graphs/targets/portable.ts";
import { createSession } from "../src/runtime.ts";
import { readSafetensors } from "../src/safetensors.ts";

const apart = (a: Tensor, b: Tensor): number => {
  let [difference, norm] = [0, 0];
  for (let i = 0; i < b.data.length; i++) {
    difference += (Number(a.data[i]) - Number(b.data[i])) ** 2;
    norm += Number(b.data[i]) ** 2;
  }
  return Math.sqrt(difference / norm);
};

const [folder = ".", ...only] = process.argv.slice(2);
for (const file of readdirSync(folder)
  .filter((name) => name.endsWith(".onnx"))
  .sort()) {
  const [name = ""] = file.split(".");
  if (only.length > 0 && !only.some((o) => file.startsWith(o))) continue;
  const { tensors } = await readSafetensors(join(folder, `${name}.safetensors`));
  const [x, weights, logits, gradient] = ["x", "weights", "logits", "gradient"].map(
    (key) => tensors.get(key) as Tensor,
  );
  try {
    const start = performance.now();
    const model = readModel(readFileSync(join(folder, file)), { batch: 2 });
    const input = Object.values(model.inputs)[0] as Value;
    const output = Object.values(model.outputs)[0] as Value;
    const [dx] = grad(reduceSum(mul(output, constant(weights as Tensor)), { keepdims: 0 }), [input]) as [Value];
    const built = buildModel(lower({ y: output, dx }, portable), [input]);
    const read = performance.now();
    const session = await createSession(built);
    const result = await session.run({ [session.inputNames[0] as string]: x as Tensor });
    const ran = performance.now();
    const figures = [apart(result.y as Tensor, logits as Tensor), apart(result.dx as Tensor, gradient as Tensor)];
    console.log(
      `${file.padEnd(28)} logits ${figures[0]?.toExponential(1)}  gradient ${figures[1]?.toExponential(1)}` +
        `  ${built.nodes.size} nodes, read ${(read - start).toFixed(0)} ms, run ${(ran - read).toFixed(0)} ms`,
    );
    await session.release();
  } catch (error) {
    console.log(`${file.padEnd(28)} ${error instanceof Error ? error.message : error}`);
  }
}
