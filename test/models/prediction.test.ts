import { expect, test } from "@jest/globals";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { NO_CLASS, predictionOf, predictionsOf } from "../../src/models/prediction.ts";

test("the class is the first of the largest logits, and none where any logit is not finite", () => {
  expect(predictionOf(Float32Array.of(-3, 2, 2))).toBe(1);
  expect(predictionOf(Float32Array.of(-3, -2, -5))).toBe(1);
  for (const odd of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
    for (const place of [0, 1, 2]) {
      const logits = Float32Array.of(1, 2, 3);
      logits[place] = odd;
      expect(predictionOf(logits)).toBe(NO_CLASS);
    }
  expect(predictionOf([])).toBe(NO_CLASS);
  expect(predictionsOf(float32([3, 2], [0, 1, Number.NaN, 0, 5, 4]))).toEqual([1, NO_CLASS, 0]);
});
