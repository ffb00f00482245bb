/**
 * Reads the models of scripts/fixtures/foreign_models.py, differentiates Σ weights·logits by the input and by every weight,
 * and prints how far logits and gradients are from PyTorch's (relative L2; of the weights' the largest, and whose it is).
 *
 *     npm run build && node dist/scripts/parity/compare-foreign.js FOLDER [NAME…] [--each] [--tolerance 1e-4]
 *
 * --each prints a line for every weight. Exit code 1 where a model is refused, a figure passes the tolerance, or a weight that
 * `advcl harden` would move has no gradient of PyTorch's beside it.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { readSafetensors } from "../../src/files/safetensors.ts";
import { readFlags } from "../flags.ts";
import { foreignErrors } from "./foreign-gradients.ts";

const { values: flags, positionals } = readFlags(import.meta.url, {
  allowPositionals: true,
  options: { each: { type: "boolean", default: false }, tolerance: { type: "string", default: "1e-4" } },
});
const tolerance = Number(flags.tolerance);
const [folder = ".", ...only] = positionals;
const files = readdirSync(folder)
  .filter((name) => name.endsWith(".onnx") && (only.length === 0 || only.some((o) => name.startsWith(o))))
  .sort();
if (files.length === 0) {
  console.error(`no such .onnx file in ${folder}: make them with scripts/fixtures/foreign_models.py`);
  process.exitCode = 2;
}
for (const file of files) {
  const read = async (name: string) => (await readSafetensors(join(folder, `${name}.safetensors`))).tensors;
  try {
    const truth = await read(file.split(".")[0]!);
    const gradients = await read(file.replace(/\.onnx$/, ""));
    const { logits, input, weights, unknown, nodes } = await foreignErrors(
      readFileSync(join(folder, file)),
      truth,
      gradients,
    );
    const [worst = ["", 0]] = [...weights].sort(([, a], [, b]) => b - a);
    // NaN passes no comparison.
    const good = [logits, input, ...weights.values()].every((error) => error <= tolerance) && unknown.length === 0;
    if (!good) process.exitCode = 1;
    console.log(
      `${file.padEnd(28)} ${good ? "ok " : "BAD"} logits ${logits.toExponential(1)}  input ${input.toExponential(1)}  ` +
        `${weights.size} weights, worst ${worst[1].toExponential(1)} ${worst[0]}  (${nodes} nodes)` +
        (unknown.length > 0 ? `; no gradient of PyTorch's for ${unknown.join(", ")}` : ""),
    );
    if (flags.each)
      for (const [name, error] of weights) console.log(`    ${name.padEnd(60)} ${error.toExponential(1)}`);
  } catch (error) {
    process.exitCode = 1;
    console.log(`${file.padEnd(28)} BAD ${error instanceof Error ? error.message : error}`);
  }
}
