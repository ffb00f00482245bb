/** PGD and its losses as graphs, against PyTorch's golden values and numbers worked out by hand. */
import { describe, expect, test } from "@jest/globals";
import { linf, threatModel } from "../../../graphs/attacks/threat-model.ts";
import { dlr, margin, targetedDlr } from "../../../graphs/losses/margin.ts";
import { advclBranches } from "../../../graphs/methods/advcl.ts";
import { FrozenStore } from "../../../graphs/nn/frozen.ts";
import { linear } from "../../../graphs/nn/layer.ts";
import { resnet } from "../../../graphs/nn/resnet.ts";
import { Scope } from "../../../graphs/nn/scope.ts";
import { constant, input, type Value } from "../../../graphs/onnx/graph.ts";
import { float32, type Tensor } from "../../../graphs/onnx/tensor.ts";
import { logitsStep, pgdStep } from "../../../graphs/steps/evaluate.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { fed, golden, tolerances, unequalPixels } from "../../../scripts/parity/golden.ts";
import { evaluate, filledWith, relativeError } from "../run.ts";

test("PGD-20 on a classifier equals PyTorch's", async () => {
  const held = await golden("finetune");
  const before = await golden("given");
  const weight = (path: string) =>
    held.get(path.startsWith("fc.") ? `before.${path}` : `before.net.${path}`) ?? before.get(`before.${path}`);
  const store = new FrozenStore(weight);
  const scope = new Scope(store, { mode: "eval", branches: ["pgd"] });
  const encoder = resnet({ depth: 18, width: 16, stem: "cifar", branches: advclBranches });
  const classifier = (x: Value) => linear({ features: 10 })(scope.at("fc"), encoder(scope, x));
  const size = { batch: 16, image: [3, 32, 32] } as const;
  const threat = linf(8 / 255);
  const { logits } = logitsStep(classifier, size);
  const { x, logits: attacked } = pgdStep(classifier, size, { threat, steps: 20, stepSize: 2 / 255 });
  const feeds: Record<string, Tensor> = {};
  const clean = held.get("input.clean") as Tensor;
  const start = held.get("input.start_pgd") as Tensor;
  feeds["input.x"] = clean;
  feeds["input.clean"] = clean;
  // The golden file holds the noise.
  const isNoise = Math.min(...(start.data as Float32Array)) < -0.02;
  feeds["input.start"] = isNoise
    ? float32(
        clean.shape,
        Array.from(start.data as Float32Array, (v, i) => v + Number(clean.data[i])),
      )
    : start;
  feeds["input.label"] = fed(held.get("input.label") as Tensor);
  const result = await evaluate({ clean: logits, x, attacked }, feeds, portable, { optimization: "all" });
  const compare = (name: string, of: Tensor) =>
    relativeError(of.data as Float32Array, held.get(name)?.data as Float32Array);
  expect(compare("clean.logits", result.clean)).toBeLessThan(tolerances.direct.value);
  expect(unequalPixels(result.x.data as Float32Array, held.get("pgd20.x")?.data as Float32Array)).toBeLessThan(
    tolerances.direct.image5,
  );
  expect(compare("pgd20.logits", result.attacked)).toBeLessThan(1e-2);
});

describe("losses of attacks", () => {
  const logits = constant(float32([2, 4], [3, 1, 2, -1, 0, 5, 1, 3]));
  const classes = (...values: number[]) => constant(filledWith("int64", [2], values));
  const values = async (loss: Value) => Array.from((await evaluate({ loss }, {})).loss.data as Float32Array);
  test("DLR", async () => {
    // Image 0 is of class 0: -(3 - 2)/(3 - 1); image 1 is of class 3: -(3 - 5)/(5 - 1).
    expect(await values(dlr(logits, classes(0, 3)))).toEqual([-0.5, 0.5]);
  });
  test("targeted DLR", async () => {
    // -(3 - 1)/(3 - (1 - 1)/2) and -(5 - 0)/(5 - (1 + 0)/2).
    const [a, b] = (await values(targetedDlr(logits, classes(0, 1), classes(1, 0)))) as [number, number];
    expect(a).toBeCloseTo(-2 / 3, 6);
    expect(b).toBeCloseTo(-5 / 4.5, 6);
  });
  test("margin", async () => expect(await values(margin(logits, classes(0, 1), classes(2, 3)))).toEqual([-1, -2]));
  test("DLR refuses two classes", () => {
    const two = constant(float32([1, 2], [1, 2]));
    expect(() => dlr(two, constant(filledWith("int64", [1], [0])))).toThrow(
      "dlr: the loss needs 3 classes, the model has 2",
    );
  });
});

test("L2: the direction has unit length, the projection keeps the ball and the box", async () => {
  const threat = threatModel("l2", 0.5);
  const x = input("x", { dtype: "float32", shape: [3, 2, 2] });
  const clean = input("clean", { dtype: "float32", shape: [3, 2, 2] });
  const given = float32([3, 2, 2], [3, -1, 2, 0, 0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0]);
  const from = float32([3, 2, 2], [0.5, 0.5, 0.5, 0.5, 0, 0.1, 0.4, 0.2, 1, 1, 1, 1]);
  const result = await evaluate({ d: threat.direction(x), p: threat.project(x, clean) }, { x: given, clean: from });
  const length = (data: ArrayLike<number>, row: number, other?: ArrayLike<number>) =>
    Math.hypot(...[0, 1, 2, 3].map((k) => data[row * 4 + k]! - (other?.[row * 4 + k] ?? 0)));
  const { d, p } = result as { d: Tensor<"float32">; p: Tensor<"float32"> };
  expect(length(d.data, 0)).toBeCloseTo(1, 6);
  expect(length(d.data, 2)).toBe(0);
  for (const row of [0, 2]) expect(length(p.data, row, from.data)).toBeLessThanOrEqual(0.5 + 1e-6);
  expect(Array.from(p.data.slice(4, 8))).toEqual(Array.from(given.data.slice(4, 8)));
});
