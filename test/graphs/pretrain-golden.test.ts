/** Whole AdvCL steps against PyTorch's, through every target that runs on this machine's CPU. */
import { describe, expect, test } from "@jest/globals";
import { grad } from "../../graphs/autodiff/grad.ts";
import { contrastive } from "../../graphs/losses/contrastive.ts";
import { resnet } from "../../graphs/nn/resnet.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import { input, type Value } from "../../graphs/onnx/graph.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { concat, reshape } from "../../graphs/ops/index.ts";
import { advclBranches, type PretrainOptions, pretrainStep } from "../../graphs/steps/pretrain.ts";
import { compile } from "../../graphs/steps/step.ts";
import { cpuTarget } from "../../graphs/targets/cpu/index.ts";
import type { Target } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { highFrequency } from "../../graphs/views/high-frequency.ts";
import { createSession } from "../../src/runtime.ts";
import { fed, golden, tolerances, unequalPixels } from "./golden.ts";
import { evaluate, filledWith, relativeError } from "./run.ts";

const targets: readonly { target: Target; tolerance: (typeof tolerances)[keyof typeof tolerances] }[] = [
  { target: portable, tolerance: tolerances.direct },
  { target: cpuTarget(), tolerance: tolerances.winograd },
];

const options: PretrainOptions = {
  batch: 16,
  size: 32,
  depth: 18,
  width: 16,
  stem: "cifar",
  radius: 8,
  clusters: [2, 10, 50, 100, 500],
  clusterWeight: 0.2,
  attack: true,
  attackSteps: 5,
  eps: 8 / 255,
  stepSize: 2 / 255,
  temperature: 0.5,
  baseTemperature: 0.07,
  momentum: 0.9,
  weightDecay: 1e-4,
  trace: true,
};

/** What a step starts from: the given tensors as its inputs, and momenta of zero. */
const feedsOf = (
  names: Iterable<string>,
  types: Readonly<Record<string, Tensor | { shape: readonly number[] }>>,
  given: ReadonlyMap<string, Tensor>,
) =>
  Object.fromEntries(
    Array.from(names, (name) => {
      const shape = (types[name] as Tensor).shape;
      if (name === "input.lr") return [name, filledWith("float32", [], [0.1])];
      if (name.startsWith("state.momentum."))
        return [name, filledWith("float32", shape, new Array(shape.reduce((a, b) => a * b, 1)).fill(0))];
      return [name, fed(given.get(name.replace(/^(param|state)\./, "before.")) as Tensor)];
    }),
  );

describe.each(targets)("$target.name", ({ target, tolerance }) => {
  test.each([0, 1, 5])("one step with %i attack steps", async (attackSteps) => {
    const given = await golden("given");
    const expected = await golden(`pretrain_steps${attackSteps}`);
    const model = compile(pretrainStep({ ...options, attackSteps }), target);
    const session = await createSession(model, { threads: 1 });
    const results = await session.run(feedsOf(session.inputNames, model.inputs, given));
    await session.release();
    const gradients: number[] = [];
    const checked = new Set<string>();
    for (const [name, value] of expected) {
      const ours = name.startsWith("after.")
        ? (results[name.replace("after.", "next.param.")] ?? results[name.replace("after.", "next.state.")])
        : results[name];
      if (name === "grad.head_proj.0.bias") continue;
      if (ours === undefined) throw new Error(`the step does not give ${name}`);
      checked.add(name.split(".")[0] as string);
      const [a, b] = [ours.data as Float32Array, value.data as Float32Array];
      expect(a.length).toBe(b.length);
      const error = name.includes(".first_x_") || name.includes(".x_") ? unequalPixels(a, b) : relativeError(a, b);
      if (name.startsWith("grad.")) gradients.push(error);
      const bound = name.startsWith("metric.")
        ? tolerance.value
        : name.includes("first_grad")
          ? tolerance.firstGradient
          : name.startsWith("attack.")
            ? attackSteps === 5 && !name.includes("first")
              ? tolerance.image5
              : tolerance.image
            : name.startsWith("grad.")
              ? tolerance.gradient
              : tolerance.after;
      if (!(error <= bound)) throw new Error(`${name} is off by ${error}, allowed are ${bound}`);
    }
    gradients.sort((a, b) => a - b);
    expect(gradients[gradients.length >> 1]).toBeLessThanOrEqual(tolerance.gradientMedian);
    expect([...checked].sort()).toEqual(["after", "attack", "grad", "metric"]);

    if (attackSteps === 5) {
      // Evaluation-mode features of each branch after the step.
      const features = await golden("features_after_steps5");
      for (const branch of advclBranches) {
        const store = new Store();
        const h = resnet({ ...options, branches: advclBranches })(
          new Scope(store, { mode: "eval", branches: [branch] }),
          store.input("clean", { dtype: "float32", shape: [16, 3, 32, 32] }),
        );
        const feeds = Object.fromEntries([
          ["input.clean", given.get("input.clean") as Tensor],
          ...[...store.parameters.keys()].map((p) => [`param.${p}`, results[`next.param.${p}`]]),
          ...[...store.states.keys()].map((p) => [`state.${p}`, results[`next.state.${p}`]]),
        ]) as Record<string, Tensor>;
        const { h: ours } = await evaluate({ h }, feeds, target);
        const error = relativeError(
          ours.data as Float32Array,
          features.get(`features.${branch}`)?.data as Float32Array,
        );
        expect(error).toBeLessThanOrEqual(tolerance.value);
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
    const loss = contrastive(reshape(concat(rows, { axis: 1 }), [24, 128]), 4, options);
    const gradients = grad(loss, views);
    const named: Record<string, Value> = Object.fromEntries(gradients.map((g, i) => [`grad${i}`, g]));
    const feeds = Object.fromEntries(names.map((name) => [name, given.get(name) as Tensor]));
    for (const [name, value] of Object.entries(await evaluate({ loss, ...named }, feeds, target)))
      expect(relativeError(value.data as Float32Array, given.get(name)?.data as Float32Array)).toBeLessThanOrEqual(
        tolerance.value,
      );
  });
});
