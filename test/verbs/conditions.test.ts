import { describe, expect, test } from "@jest/globals";
import { RequestError } from "../../src/errors.ts";
import { checkConditions, judge, parseConditions, unmet } from "../../src/verbs/conditions.ts";

const figures = {
  loss: { first: 30, best: 20, last: 25 },
  knnAccuracy: { first: 0.1, best: 0.4, last: 0.3 },
  accuracy: { last: 0.8 },
  "apgd-ce": { last: 0.5 },
};
const required = (...require: string[]) => parseConditions({ require, failIf: [] });

test.each([
  ["knnAccuracy>0.25", true],
  ["knnAccuracy > 30%", false],
  ["knnAccuracy>=30%", true],
  ["knn-accuracy>=3/10", true],
  ["knnAccuracy.best==0.4", true],
  ["knnAccuracy>first", true],
  ["loss<first", true],
  ["loss<=best", false],
  ["loss.best<0.6*first", false],
  ["loss.best < 0.7 * first", true],
  ["loss!=25", false],
  ["apgd-ce>=0.5*accuracy", true],
  ["apgd-ce>=0.7*accuracy", false],
  ["accuracy>knnAccuracy.best", true],
])("%s", (text, holds) => {
  expect(judge(required(text), figures)[0]?.met).toBe(holds);
  expect(judge(parseConditions({ require: [], failIf: [text] }), figures)[0]?.met).toBe(!holds);
});

test("what does not hold is said with both sides", () => {
  const conditions = judge(parseConditions({ require: ["loss<10"], failIf: ["knnAccuracy>=0.5*best"] }), figures);
  expect(unmet({ conditions })).toEqual([
    '--require "loss<10" does not hold: 25 against 10',
    '--fail-if "knnAccuracy>=0.5*best" holds: 0.3 against 0.2',
  ]);
  expect(unmet({ accuracy: 1 })).toEqual([]);
});

describe("refused are", () => {
  test.each(["loss", "loss<", "<3", "loss<<3", "0.3<loss", "loss<fast*first", "loss=>3", "loss.worst<3", "loss<1e"])(
    "%s",
    (text) => {
      expect(() => {
        const conditions = required(text);
        checkConditions(conditions, { followed: ["loss"] });
      }).toThrow(RequestError);
    },
  );

  test("figures that there are not, and first values of what is measured once", () => {
    const there = { followed: ["loss", "knnAccuracy"], final: ["accuracy"] };
    const check = (text: string) => () => checkConditions(required(text), there);
    expect(check("lss<3")).toThrow(
      '--require "lss<3": there is no figure lss here, but loss, knnAccuracy, accuracy; did you mean loss?',
    );
    expect(check("loss<0.5*acuracy")).toThrow("did you mean accuracy?");
    expect(check("accuracy>first")).toThrow(
      '--require "accuracy>first": accuracy is measured once and has no first value; compare it with a number',
    );
    expect(check("loss<first")).not.toThrow();
    expect(check("accuracy>0.5*knnAccuracy.best")).not.toThrow();
  });
});
