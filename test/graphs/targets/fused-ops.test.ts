/** What the target cuda-fused makes of every op that has a gradient, and of that gradient, by the meaning of its kernels. */
import { expect, test } from "@jest/globals";
import { cudaFusedTarget, type FusedOptions } from "../../../graphs/targets/cuda/fused/index.ts";
import { lower } from "../../../graphs/targets/lower.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { opPrograms } from "../../../scripts/parity/op-programs.ts";
import { evaluate, relativeError } from "../run.ts";

const { programs, feeds } = opPrograms();

test.each<[string, FusedOptions]>([
  ["cuDNN's functions", { precision: "float32", convolutions: "cudnn" }],
  ["onnxruntime's convolutions", { precision: "float32", convolutions: "stock" }],
])("every op and gradient, %s", async (_, options) => {
  const wrong: Record<string, number> = {};
  let compared = 0;
  for (const outputs of programs) {
    const expected = await evaluate(outputs, feeds);
    const actual = await evaluate(lower(lower(outputs, cudaFusedTarget(options)), portable), feeds);
    for (const [name, { data, shape }] of Object.entries(expected)) {
      expect(actual[name]?.shape).toEqual(shape);
      compared += 1;
      const error = relativeError(actual[name]?.data as Float32Array, data as Float32Array);
      if (!(error <= 1e-5)) wrong[name] = error;
    }
  }
  expect(wrong).toEqual({});
  expect(compared).toBeGreaterThan(600);
});
