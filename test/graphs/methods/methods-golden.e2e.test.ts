/** One step of each rival method against PyTorch, as scripts/fixtures/methods.py writes it from the method's paper. */
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { apDpeTasks } from "../../../graphs/methods/ap-dpe.ts";
import { type MethodName, methods } from "../../../graphs/methods/index.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { zeros } from "../../../graphs/onnx/tensor.ts";
import { feedName, kindOf, nextName, paramName, pathOf, stateName } from "../../../graphs/steps/names.ts";
import { compile } from "../../../graphs/steps/step.ts";
import { cpuTarget } from "../../../graphs/targets/cpu/index.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { fed, tolerances, unequalPixels } from "../../../scripts/parity/golden.ts";
import { createSession } from "../../../src/engine/session.ts";
import { rewritingOf } from "../../../src/engine/targets.ts";
import { readSafetensors } from "../../../src/files/safetensors.ts";
import { filledWith, relativeError } from "../run.ts";

const targets = {
  portable: { target: portable, tolerance: tolerances.direct },
  cpu: { target: cpuTarget(), tolerance: tolerances.winograd },
};

const options = {
  batch: 8,
  size: 16,
  depth: 18 as const,
  width: 4,
  stem: "cifar" as const,
  temperature: 0.5,
  eps: 8 / 255,
  stepSize: 2 / 255,
  attackSteps: 3,
  momentum: 0.9,
  weightDecay: 0,
  tasks: apDpeTasks,
  baseTemperature: 0.07,
  radius: 4,
  clusters: [],
  clusterWeight: 0.2,
  attack: true,
  trace: true,
};

/**
 * What of a parameter has a true gradient: all but the keys' third of an attention's bias, which adds the same to every
 * logit of a softmax (AdamW makes a whole step of its rounding).
 */
const withGradient = (path: string, values: Float32Array): Float32Array =>
  path.endsWith("in_proj_bias")
    ? values.filter((_, i) => i < values.length / 3 || i >= (2 * values.length) / 3)
    : values;

/** Biases before a batch norm, of the methods whose projector is not SimCLR's. */
const beforeNorm: Partial<Record<MethodName, readonly string[]>> = {
  byorl: ["head_proj.0.bias", "head_proj.3.bias", "head_pred.0.bias"],
  "a-infonce": ["head_proj.0.bias"],
  "a-infonce-ip": ["head_proj.0.bias"],
  "a-infonce-hn": ["head_proj.0.bias"],
};

/** A step of a method; its fixture and its options where they are not the method's own. */
interface Case {
  readonly name: MethodName;
  readonly on: keyof typeof targets;
  readonly fixture?: string;
  readonly own?: Readonly<Record<string, unknown>>;
}

const cases: readonly Case[] = [
  ...(
    [
      "simclr",
      "acl",
      "rocl",
      "dynacl",
      "deacl",
      "byorl",
      "ap-dpe",
      "acl-air",
      "dynacl-air",
      "a-infonce",
      "a-infonce-ip",
      "a-infonce-hn",
    ] as const
  ).map((name) => ({ name, on: "portable" }) as const),
  { name: "acl", on: "cpu" },
  { name: "acl-air", on: "portable", fixture: "acl-air-code", own: { divergence: "code" } },
];

test.each(cases)(
  "$name $own, target $on",
  async ({ name, on, fixture = name, own = {} }) => {
    const { target, tolerance } = targets[on];
    const path = fileURLToPath(new URL(`../../fixtures/methods/${fixture}.safetensors`, import.meta.url));
    const { tensors: given, metadata } = await readSafetensors(path);
    const step = methods[name].build({
      ...methods[name].paper,
      ...options,
      ...own,
      optimizer: metadata.optimizer as "sgd",
      weightDecay: Number(metadata.weightDecay),
    });
    const session = await createSession(compile(step, target), rewritingOf(target, "cpu"));
    const feeds = Object.fromEntries(
      session.inputNames.map((input): [string, Tensor] => {
        if (input === feedName("lr")) return [input, filledWith("float32", [], [Number(metadata.lr)])];
        const slot = kindOf(input) === "state" ? step.store.states.get(pathOf(input)) : undefined;
        if (slot && /^(momentum|adam)\./.test(slot.path)) return [input, zeros("float32", slot.type.shape)];
        const value = given.get(kindOf(input) === "input" ? input : `before.${pathOf(input)}`);
        if (value === undefined) throw new Error(`the fixture lacks ${input}`);
        // A scalar is kept as one number.
        return [input, { ...fed(value), shape: (slot?.type ?? step.store.inputs.get(pathOf(input)) ?? value).shape }];
      }),
    );
    const results = await session.run(feeds);
    await session.release();

    const gradients: number[] = [];
    const kinds = new Set<string>();
    for (const [key, value] of given) {
      const kind = key.split(".")[0]!;
      if (kind === "before" || kind === "input") continue;
      const path = key.slice(kind.length + 1);
      const ours =
        kind === "after" ? (results[nextName(paramName(path))] ?? results[nextName(stateName(path))]) : results[key];
      if (ours === undefined) {
        // What the step leaves alone is not among its outputs: a frozen teacher.
        const before = given.get(`before.${path}`)?.data as Float32Array;
        if (kind === "after" && relativeError(before, value.data as Float32Array) === 0) continue;
        throw new Error(`the step does not give ${key}`);
      }
      kinds.add(kind);
      const [a, b] = [ours, value].map(({ data }) => withGradient(path, data as Float32Array)) as [
        Float32Array,
        Float32Array,
      ];
      expect(a.length).toBe(b.length);
      const error = kind === "attack" ? unequalPixels(a, b) : relativeError(a, b);
      // A bias before a batch norm has no true gradient.
      if (kind === "grad" && (beforeNorm[name] ?? ["head_proj.fc1.bias"]).includes(path)) continue;
      if (kind === "grad") gradients.push(error);
      const bound =
        { metric: tolerance.value, attack: tolerance.image5, grad: tolerance.gradient, after: tolerance.after }[kind] ??
        0;
      if (!(error <= bound)) throw new Error(`${key} is off by ${error}, allowed are ${bound}`);
    }
    gradients.sort((a, b) => a - b);
    expect(gradients[gradients.length >> 1]).toBeLessThanOrEqual(tolerance.gradientMedian);
    expect([...kinds].sort()).toEqual(
      name === "simclr" ? ["after", "grad", "metric"] : ["after", "attack", "grad", "metric"],
    );
  },
  300_000,
);
