/**
 * Gradients of every op against central differences along one random direction, driven by the table of ops: an op with a
 * gradient but without cases fails here. Functions are f(x) = Σ c·op(x) with random c.
 */
import { describe, expect, test } from "@jest/globals";
import { vjp } from "../../../graphs/autodiff/grad.ts";
import { isFloat } from "../../../graphs/onnx/dtype.ts";
import { apply, constant, input, type Value } from "../../../graphs/onnx/graph.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { add, type CheckedInput, definitions, mul, reduceSum } from "../../../graphs/ops/index.ts";
import { evaluate, filledWith, randomNumbers, randomTensor } from "../run.ts";

const drawn = (random: () => number, given: CheckedInput): Tensor =>
  given.values === undefined
    ? randomTensor(random, given.shape, given.low ?? -1, given.high ?? 1, given.dtype)
    : filledWith(given.dtype ?? "float32", given.shape, given.values);

for (const definition of definitions.values()) {
  if (typeof definition.vjp !== "function") continue;
  describe(definition.name, () => {
    test("has cases", () => expect(definition.gradcheck.length).toBeGreaterThan(0));
    test.each(definition.gradcheck.map((c, i) => [i, c] as const))("case %i", async (index, c) => {
      const random = randomNumbers(17 + index);
      const { step = 1e-2, tolerance = 2e-3 } = c;
      const given = c.inputs.map((i) => drawn(random, i));
      const values = given.map((t, i) => (c.inputs[i]?.fixed ? constant(t) : input(`x${i}`, t)));
      const outputs = apply(definition, values, c.attributes ?? {});
      // Integer outputs, and statistics that carry no gradient, take no part.
      const counted = outputs.slice(0, definition.differentiableOutputs).filter((y) => isFloat(y.dtype));
      const weights = counted.map((y) => randomTensor(random, y.shape, -1, 1, y.dtype));
      const weighted = counted.map((y, i) => mul(y, constant(weights[i]!)));
      const f = weighted.map((y) => reduceSum(y, { keepdims: 0 })).reduce((a, b) => add(a, b));
      const free = values.filter((_, i) => !c.inputs[i]?.fixed);
      const gradients = vjp(counted, weights.map(constant), free);

      const feeds = Object.fromEntries(given.map((t, i) => [`x${i}`, t]));
      const at = async (sign: number, directions: readonly Tensor[]) => {
        let next = 0;
        const moved = given.map((t, i) => {
          if (c.inputs[i]?.fixed) return t;
          const d = directions[next++]!;
          return filledWith(
            t.dtype,
            t.shape,
            Array.from(t.data as Float32Array, (x, k) => x + sign * step * Number(d.data[k])),
          );
        });
        const result = await evaluate({ f }, Object.fromEntries(moved.map((t, i) => [`x${i}`, t])));
        return Number(result.f.data[0]);
      };
      const directions = free.map((x) => randomTensor(random, x.shape, -1, 1, x.dtype));
      const difference = ((await at(1, directions)) - (await at(-1, directions))) / (2 * step);
      const named = Object.fromEntries(gradients.map((g, i) => [`g${i}`, g as Value]));
      const computed = await evaluate(named, feeds);
      let [slope, scale] = [0, 0];
      directions.forEach((d, i) => {
        const g = computed[`g${i}`]!;
        expect(g.shape).toEqual(d.shape);
        for (let k = 0; k < d.data.length; k++) {
          slope += Number(g.data[k]) * Number(d.data[k]);
          scale += (Number(g.data[k]) * Number(d.data[k])) ** 2;
        }
      });
      expect(Math.abs(slope - difference)).toBeLessThanOrEqual(tolerance * Math.max(Math.sqrt(scale), 1e-2));
    });
  });
}
