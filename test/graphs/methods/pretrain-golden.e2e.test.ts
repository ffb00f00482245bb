/** Whole AdvCL steps against PyTorch's, through every target that runs on this machine's CPU. */
import { describe, expect, test } from "@jest/globals";
import { grad } from "../../../graphs/autodiff/grad.ts";
import { contrastive } from "../../../graphs/losses/contrastive.ts";
import { advclBranches } from "../../../graphs/methods/advcl.ts";
import { encoder } from "../../../graphs/nn/encoder.ts";
import { Scope, Store } from "../../../graphs/nn/scope.ts";
import { input, type Value } from "../../../graphs/onnx/graph.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { concat, reshape } from "../../../graphs/ops/index.ts";
import { compile } from "../../../graphs/steps/step.ts";
import { cpuTarget } from "../../../graphs/targets/cpu/index.ts";
import type { Target } from "../../../graphs/targets/lower.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { highFrequency } from "../../../graphs/views/high-frequency.ts";
import {
  beyond,
  golden,
  goldenAttackSteps,
  goldenErrors,
  goldenOptions,
  goldenStep,
  tolerances,
} from "../../../scripts/parity/golden.ts";
import { blockSize } from "../../../src/engine/block.ts";
import { createSession } from "../../../src/engine/session.ts";
import { rewritingOf } from "../../../src/engine/targets.ts";
import { evaluate, relativeError } from "../run.ts";

const block = await blockSize();
interface Case {
  readonly target: Target;
  readonly tolerance: (typeof tolerances)[keyof typeof tolerances];
  /** Whether five attack steps end at PyTorch's pixels; a sign that rounding turns moves what follows beyond a feature's tolerance. */
  readonly exact?: boolean;
}

const targets: readonly Case[] = [
  { target: portable, tolerance: tolerances.direct },
  { target: cpuTarget(), tolerance: tolerances.winograd },
  ...(block === undefined
    ? []
    : [{ target: cpuTarget({ name: `cpu-blocked${block}`, block }), tolerance: tolerances.winograd, exact: false }]),
];

describe.each(targets)("$target.name", ({ target, tolerance, exact = true }) => {
  test.each(goldenAttackSteps)("one step with %i attack steps", async (attackSteps) => {
    const { step, feeds } = await goldenStep(attackSteps);
    const session = await createSession(compile(step, target), { threads: 1, ...rewritingOf(target, "cpu") });
    const results = await session.run(feeds);
    await session.release();
    const errors = await goldenErrors(attackSteps, results);
    expect(beyond(errors, tolerance)).toEqual([]);
    const kinds = new Set(errors.map(({ name }) => name.split(".")[0]!));
    expect([...kinds].sort()).toEqual(["after", "attack", "grad", "metric"]);

    if (attackSteps === 5) {
      // Evaluation-mode features of each branch after the step.
      const features = await golden("features_after_steps5");
      for (const branch of advclBranches) {
        const store = new Store();
        const h = encoder({ ...goldenOptions, branches: advclBranches })(
          new Scope(store, { mode: "eval", branches: [branch] }),
          store.input("clean", { dtype: "float32", shape: [16, 3, 32, 32] }),
        );
        const frozen = Object.fromEntries([
          ["input.clean", feeds["input.clean"]],
          ...[...store.parameters.keys()].map((p) => [`param.${p}`, results[`next.param.${p}`]]),
          ...[...store.states.keys()].map((p) => [`state.${p}`, results[`next.state.${p}`]]),
        ]) as Record<string, Tensor>;
        const { h: ours } = await evaluate({ h }, frozen, target);
        // Of the same weights; PyTorch's are those of a step in which no pixel went the other way.
        const { h: plain } = await evaluate({ h }, frozen);
        expect(relativeError(ours.data as Float32Array, plain.data as Float32Array)).toBeLessThanOrEqual(
          tolerance.value,
        );
        if (exact)
          expect(
            relativeError(ours.data as Float32Array, features.get(`features.${branch}`)?.data as Float32Array),
          ).toBeLessThanOrEqual(tolerance.value);
      }
    }
  });

  test.each([32, 96])("high-frequency component, size %i", async (size) => {
    const given = await golden("high_frequency");
    const images = given.get(`image${size}`) as Tensor;
    const { y } = await evaluate({ y: highFrequency(input("x", images), 8) }, { x: images }, target);
    expect(relativeError(y.data as Float32Array, given.get(`hfc${size}`)?.data as Float32Array)).toBeLessThanOrEqual(
      tolerance.value,
    );
  });

  test("contrastive loss and its gradient", async () => {
    const given = await golden("contrastive");
    const names = [0, 1, 2, 3].map((i) => `view${i}`);
    const views = names.map((name) => input(name, given.get(name) as Tensor));
    const rows = views.map((v) => reshape(v, [6, 1, 128]));
    const loss = contrastive(reshape(concat(rows, { axis: 1 }), [24, 128]), 4, goldenOptions);
    const gradients = grad(loss, views);
    const named: Record<string, Value> = Object.fromEntries(gradients.map((g, i) => [`grad${i}`, g]));
    const feeds = Object.fromEntries(names.map((name) => [name, given.get(name) as Tensor]));
    for (const [name, value] of Object.entries(await evaluate({ loss, ...named }, feeds, target)))
      expect(relativeError(value.data as Float32Array, given.get(name)?.data as Float32Array)).toBeLessThanOrEqual(
        tolerance.value,
      );
  });
});
