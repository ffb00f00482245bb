import { describe, expect, test } from "@jest/globals";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { random } from "../../src/data/random.ts";
import { collapseWarning, featureSpread } from "../../src/evaluate/spread.ts";

/** Features whose coordinate i is normal with deviation scales[i] about centre[i]. */
const drawn = (scales: readonly number[], centre = 0, count = 2_000) => {
  const r = random(0, 0, 0, "spread");
  const data = Float32Array.from(
    { length: count * scales.length },
    (_, i) => centre + scales[i % scales.length]! * r.normal(),
  );
  return float32([count, scales.length], data);
};

describe("the spread of features", () => {
  test("is the number of directions where all are alike, and 1 on a line", () => {
    expect(featureSpread(drawn([1, 1, 1, 1, 1, 1, 1, 1])).participationRatio).toBeCloseTo(8, 0);
    const line = Float32Array.from({ length: 300 }, (_, i) => (i % 3 === 0 ? 1 : 2) * Math.floor(i / 3));
    expect(featureSpread(float32([100, 3], line)).participationRatio).toBeCloseTo(1, 6);
    // (4 + 1)²/(16 + 1), variances 4 and 1
    expect(featureSpread(drawn([2, 1], 0, 2_000)).participationRatio).toBeCloseTo(25 / 17, 1);
  });

  test("tells by the mean cosine whether all look one way", () => {
    expect(featureSpread(drawn([1, 1, 1, 1])).meanCosine).toBeCloseTo(0, 1);
    expect(featureSpread(drawn([0.1, 0.1, 0.1, 0.1], 5)).meanCosine).toBeGreaterThan(0.99);
    const pair = featureSpread(float32([2, 2], Float32Array.of(1, 0, 1, 1)));
    expect(pair.meanCosine).toBeCloseTo(Math.SQRT1_2, 6);
  });

  test("is warned of where images are hardly told apart, and where all features are one", () => {
    expect(collapseWarning(featureSpread(drawn([1, 1, 1, 1])))).toBeUndefined();
    expect(collapseWarning(featureSpread(drawn([1, 0.01, 0.01])))).toContain("vary in 1.0 directions");
    const same = featureSpread(float32([4, 2], new Float32Array(8).fill(3)));
    expect(same).toEqual({ participationRatio: 1, meanCosine: expect.closeTo(1, 6) });
    expect(collapseWarning(same)).toContain("another --lr");
  });
});
