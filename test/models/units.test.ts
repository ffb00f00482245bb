/** Numbers in units of 0 to 255: rows S1 and S2 of the table of cases. */
import { expect, test } from "@jest/globals";
import { z } from "zod";
import { warnOfUnits } from "../../src/models/units.ts";
import { setting } from "../../src/settings/schema.ts";
import { quietReporter } from "../../src/verbs/reporter.ts";
import { defineVerb } from "../../src/verbs/verb.ts";

test("numbers of pixels from 0 to 255 are told with what is meant", () => {
  const said: string[] = [];
  const warn = (message: string) => said.push(message);
  warnOfUnits({ eps: 8, stepSize: 2, mean: [123.675, 116.28, 103.53], std: [58.4, 57.1, 57.4] }, warn);
  expect(said).toEqual([
    expect.stringMatching(/--eps 8\/255 \(0\.0314\)/),
    expect.stringMatching(/one step leaves the box; did you mean --step-size 2\/255/),
    expect.stringMatching(/did you mean --mean 0\.485,0\.456,0\.406\?/),
    expect.stringMatching(/did you mean --std 0\.229,0\.2239,0\.2251\?/),
  ]);
  said.length = 0;
  warnOfUnits({ eps: 8 / 255, stepSize: 2 / 255, mean: [0.5], std: [1] }, warn);
  warnOfUnits({ norm: "l2", eps: 3, stepSize: 1 }, warn);
  warnOfUnits({ mean: [0], std: [1 / 255], eps: undefined }, warn);
  expect(said).toEqual([]);
});

test("every verb's settings go through it", async () => {
  const numbers = z.array(z.number()).optional();
  const settings = { eps: setting(z.number(), "radius"), mean: setting(numbers, "mean") };
  const verb = defineVerb({ name: "pretrain", settings }, async () => ({}));
  const said: string[] = [];
  const reporter = { ...quietReporter, warn: (message: string) => said.push(message) };
  await verb({ eps: 1, mean: [127] }, { reporter });
  expect(said).toEqual([
    expect.stringMatching(/^eps is 1 and pixels lie in \[0, 1\]/),
    expect.stringMatching(/did you mean --mean 0\.498\?$/),
  ]);
});
