/** Defences that fool attacks and classifiers of few classes: rows B1 and E1 to E5 of the table of cases. */
import { afterAll, describe, expect, test } from "@jest/globals";
import { constant, type Value } from "../../graphs/onnx/graph.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { add, cast, equal, logSoftmax, mul, reduceMax, sigmoid } from "../../graphs/ops/index.ts";
import type { Classifier } from "../../graphs/steps/evaluate.ts";
import { checkClasses, parseAttacks } from "../../src/evaluate/attack-list.ts";
import type { Oracle } from "../../src/evaluate/attacks/oracle.ts";
import { openOracle } from "../../src/evaluate/attacks/programs.ts";
import { evaluateRobustness } from "../../src/evaluate/evaluation.ts";
import type { ChunkRecord } from "../../src/evaluate/types.ts";
import { predictionOf } from "../../src/models/prediction.ts";
import { classes, convolutional, image, portably, randomImages } from "./models.ts";

const open: Oracle[] = [];
afterAll(async () => {
  for (const oracle of open) await oracle.release();
});

const base = convolutional();

/** What an evaluation finds of twelve images, labelled as the plain model sees them. */
const evaluated = async (classifier: Classifier, attacks: string, labelled: Classifier = base) => {
  const [labeller, oracle] = [labelled, classifier].map((of) =>
    openOracle({ classifier: of, image, batch: 6, fixed: true, load: portably }),
  ) as [Oracle, Oracle];
  open.push(labeller, oracle);
  const given = randomImages(12);
  const answers = await labeller.answer(given.map(({ clean }) => ({ kind: "logits", x: clean })));
  const labels = Int32Array.from(answers, ({ logits }) => predictionOf(logits));
  const finished = new Map<string, ChunkRecord>();
  const found = await evaluateRobustness({
    oracle,
    images: { count: 12, shape: image, labels, index: Int32Array.from(labels.keys()), pixels: (i) => given[i]!.clean },
    attacks: parseAttacks(attacks.split(",")),
    settings: {
      ...{ norm: "linf", eps: 0.012, stepSize: 0.003, restarts: 1, iterations: 6 },
      ...{ targets: 2, queries: 20, seed: 1 },
    },
    log: { finished, append: (record) => void finished.set(`${record.stage}/${record.chunk}`, record) },
    signal: new AbortController().signal,
    progress: () => {},
  });
  return {
    right: found!.figures.map(({ right }) => right),
    warnings: found!.warnings,
    classZero: labels.filter((label) => label === 0).length,
  };
};

test("E3: constant and equal logits end with the accuracy of class 0, and are flagged", async () => {
  const falling = constant(float32([1, classes], [4, 3, 2, 1, 0]));
  for (const nothing of [(x: Value) => mul(base(x), 0), (x: Value) => add(mul(base(x), 0), falling)]) {
    const { right, warnings, classZero } = await evaluated(nothing, "clean,pgd5,autoattack");
    expect(right).toEqual([classZero, classZero, classZero]);
    if (classZero > 0)
      expect(warnings).toContainEqual(expect.stringMatching(/gradient is zero for (\d+) of \1 images/));
  }
});

test("E4: log-softmax is attacked as its logits are, and sigmoids of classes as what they are", async () => {
  const attacks = "clean,pgd5,apgd-ce,apgd-t";
  const plain = await evaluated(base, attacks);
  const logs = await evaluated((x) => logSoftmax(base(x), { axis: 1 }), attacks);
  expect(logs).toEqual(plain);
  expect(plain.right[0]).toBe(12);
  expect(plain.right[1]).toBeLessThan(12);
  const shares = await evaluated((x) => sigmoid(base(x)), attacks);
  expect(shares.right[0]).toBe(12);
  expect(shares.warnings.filter((warning) => /probabilities/.test(warning))).toEqual([]);
});

test("E5: outputs of one class alone are flagged as probabilities without a gradient", async () => {
  const hard = (x: Value): Value => {
    const logits = base(x);
    return cast(equal(logits, reduceMax(logits, { axes: [1], keepdims: 1 })), { to: "float32" });
  };
  const { right, warnings } = await evaluated(hard, "clean,pgd5");
  expect(right).toEqual([12, 12]);
  expect(warnings).toContainEqual(expect.stringMatching(/seems to return probabilities.*--output/));
  expect(warnings).toContainEqual(expect.stringMatching(/gradient is zero for 12 of 12 images/));
});

describe("B1: two and three classes", () => {
  test("what needs more is refused by name, with the attacks that can", () => {
    expect(() => checkClasses(parseAttacks(["autoattack"]), 2)).toThrow(
      /autoattack needs 4 classes .* the model has 2; give --attacks clean,fgsm,apgd-ce,fab-t,square,pgd20/,
    );
    expect(() => checkClasses(parseAttacks(["apgd-t"]), 3)).toThrow(/apgd-t needs 4 classes .*apgd-dlr/);
  });

  test.each([2, 3])("those that can break %i classes do", async (count) => {
    const few = convolutional(1, count);
    const attacks = "clean,fgsm,pgd5,apgd-ce,fab-t,square";
    checkClasses(parseAttacks(attacks.split(",")), count);
    const { right } = await evaluated(few, attacks, few);
    expect(right[0]).toBe(12);
    expect(Math.min(...right)).toBeLessThan(12);
    expect(Math.max(...right.slice(1))).toBeLessThanOrEqual(12);
  });
});
