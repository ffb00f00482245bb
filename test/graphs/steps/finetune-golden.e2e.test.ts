/** The classifier, PGD-20 and a TRADES step against PyTorch's, through every target that runs on this machine's CPU. */
import { describe, expect, jest, test } from "@jest/globals";
import { advclBranches } from "../../../graphs/methods/advcl.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { classifierStep, finetuneStep } from "../../../graphs/steps/finetune.ts";
import { compile, type Step } from "../../../graphs/steps/step.ts";
import { cpuTarget } from "../../../graphs/targets/cpu/index.ts";
import { directly } from "../../../graphs/targets/cpu/ways.ts";
import type { Target } from "../../../graphs/targets/lower.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { fed, golden, tolerances, unequalPixels } from "../../../scripts/parity/golden.ts";
import { createSession } from "../../../src/engine/session.ts";
import { filledWith, relativeError } from "../run.ts";

// Ten and twenty passes through the network on a machine that may be busy.
jest.setTimeout(180_000);

const targets: readonly { target: Target; tolerance: (typeof tolerances)[keyof typeof tolerances] }[] = [
  { target: portable, tolerance: tolerances.direct },
  { target: cpuTarget(), tolerance: tolerances.winograd },
  {
    target: cpuTarget({ name: "cpu-direct", choose: directly }),
    tolerance: tolerances.direct,
  },
];

const options = {
  batch: 16,
  size: 32,
  depth: 18,
  width: 16,
  stem: "cifar",
  branches: advclBranches,
  branch: "pgd",
  classes: 10,
  eps: 8 / 255,
  stepSize: 2 / 255,
} as const;

/** PyTorch's name of a parameter or statistic: its encoder stands under `net`. */
const theirName = (path: string): string => (path.startsWith("fc.") ? path : `net.${path}`);

/** Runs a step from the golden weights and inputs; `others` gives inputs that stand under no name of ours. */
const run = async (
  step: Step,
  target: Target,
  others: (given: ReadonlyMap<string, Tensor>) => Readonly<Record<string, Tensor>> = () => ({}),
) => {
  const given = await golden("finetune");
  const own = others(given);
  const model = compile(step, target);
  const session = await createSession(model, { threads: 1, optimization: "disabled" });
  const feeds = Object.fromEntries(
    session.inputNames.map((name) => {
      const { shape } = model.inputs[name] as Tensor;
      if (name === "input.lr") return [name, filledWith("float32", [], [0.1])];
      if (name.startsWith("state.momentum."))
        return [name, filledWith("float32", shape, new Array(shape.reduce((a, b) => a * b, 1)).fill(0))];
      const theirs = name.startsWith("input.") ? name : `before.${theirName(name.replace(/^(param|state)\./, ""))}`;
      return [name, own[name] ?? fed(given.get(theirs) as Tensor)];
    }),
  );
  const results = await session.run(feeds);
  await session.release();
  return { given, results };
};

const data = (tensors: ReadonlyMap<string, Tensor>, name: string) => tensors.get(name)?.data as Float32Array;

describe.each(targets)("$target.name", ({ target, tolerance }) => {
  test("logits of clean images and PGD with 20 steps", async () => {
    const step = classifierStep({ ...options, attackSteps: 20 });
    const { given, results } = await run(step, target, (tensors) => ({
      "input.start": tensors.get("input.start_pgd") as Tensor,
    }));
    const result = (name: string) => results[name]?.data as Float32Array;
    expect(relativeError(result("logits"), data(given, "clean.logits"))).toBeLessThanOrEqual(tolerance.value);
    expect(unequalPixels(result("attacked"), data(given, "pgd20.x"))).toBeLessThanOrEqual(tolerance.image20);
  });

  const trades = { ...options, objective: "trades", beta: 6, momentum: 0.9, weightDecay: 1e-4, trace: true } as const;

  test("the attack of TRADES", async () => {
    const { given, results } = await run(finetuneStep({ ...trades, attackSteps: 10 }), target);
    const x = results["attack.x"]?.data as Float32Array;
    expect(unequalPixels(x, data(given, "attack.x"))).toBeLessThanOrEqual(tolerance.imageTrades);
  });

  test("a step of TRADES from the attacked images", async () => {
    const { given, results } = await run(finetuneStep({ ...trades, attackSteps: 0 }), target, (tensors) => {
      const [x, clean] = [data(tensors, "attack.x"), tensors.get("input.clean") as Tensor];
      const moved = x.map((value, i) => value - Number(clean.data[i]));
      return { "input.start": { ...clean, data: moved } as Tensor };
    });
    const updates: number[] = [];
    for (const [name, value] of given) {
      if (!/^(after|metric)\./.test(name)) continue;
      const path = name.replace(/^after\.(net\.)?/, "");
      const ours = results[`next.param.${path}`] ?? results[`next.state.${path}`] ?? results[name];
      if (ours === undefined) throw new Error(`the step does not give ${name}`);
      const error = relativeError(ours.data as Float32Array, value.data as Float32Array);
      if (name.startsWith("after.")) updates.push(error);
      // One ReLU that rounding turns moves a single bias by 1.6e-3, in PyTorch's own float32 too.
      const bound = name.startsWith("metric.") ? tolerance.value : Math.max(tolerance.after, 2e-3);
      if (!(error <= bound)) throw new Error(`${name} is off by ${error}, allowed are ${bound}`);
    }
    updates.sort((a, b) => a - b);
    expect(updates.length).toBeGreaterThan(50);
    expect(updates[Math.floor(updates.length * 0.95)]).toBeLessThanOrEqual(tolerance.after);
  });
});
