/** What is done where a program cannot be loaded as its target has it. */
import { expect, jest, test } from "@jest/globals";
import { input } from "../../graphs/onnx/graph.ts";
import type { Model } from "../../graphs/onnx/write.ts";
import { conv } from "../../graphs/ops/index.ts";
import { compile } from "../../graphs/steps/step.ts";
import type { Target } from "../../graphs/targets/lower.ts";
import { type Loading, type LoadTools, load } from "../../src/engine/load.ts";
import type { Session } from "../../src/engine/session.ts";
import { targetNamed } from "../../src/engine/targets.ts";
import { RunError } from "../../src/errors.ts";

const [x, w] = [
  input("x", { dtype: "float32", shape: [2, 4, 8, 8] }),
  input("w", { dtype: "float32", shape: [4, 4, 3, 3] }),
] as const;
const y = conv(x, w, { pads: [1, 1, 1, 1] });
const ops = (model: Model): string[] => [...model.nodes.values()].map(({ definition }) => definition.name);
const session = {} as Session;

const loading = (target: string, graph = true): Loading => ({
  compiled: (target: Target) => compile({ outputs: { y } }, target),
  target: targetNamed(target),
  options: { provider: "cuda" },
  graph: () => graph,
});

/** Refuses what `refuses` says anything of. */
const tools = (refuses: (model: Model, graph: boolean) => string | undefined): LoadTools => ({
  kernelsOf: async () => ({}),
  create: async (model, { cuda }) => {
    const said = refuses(model, cuda?.graph === true);
    if (said !== undefined) throw new RunError(said);
    return session;
  },
});

const warnings = async <T>(work: () => Promise<T>): Promise<[T, string[]]> => {
  const warned = jest.spyOn(process, "emitWarning").mockImplementation(() => undefined);
  try {
    return [await work(), warned.mock.calls.map(([said]) => String(said))];
  } finally {
    warned.mockRestore();
  }
};

test.each(["cuda-fused", "cuda-fused-float32"])(
  "%s: a convolution that cuDNN refuses is onnxruntime's own",
  async (target) => {
    const refuses = (model: Model) =>
      ops(model).includes("nhwcConvForward")
        ? "onnxruntime: cuDNN: describing images failed: CUDNN_STATUS_BAD_PARAM"
        : undefined;
    const [{ model }, said] = await warnings(() => load(loading(target), tools(refuses)));
    expect(ops(model)).toContain("Conv");
    expect(said).toEqual([
      `convolutions are onnxruntime's own (--target ${target}-stock): onnxruntime: cuDNN: describing images failed: CUDNN_STATUS_BAD_PARAM`,
    ]);
  },
);

test("a program that is no CUDA graph runs without, with its kernels", async () => {
  const [{ model }, said] = await warnings(() =>
    load(
      loading("cuda-fused"),
      tools((_, graph) => (graph ? "onnxruntime: a node is left to the CPU" : undefined)),
    ),
  );
  expect(ops(model)).toContain("nhwcConvForward");
  expect(said).toEqual(["this program runs without a CUDA graph: onnxruntime: a node is left to the CPU"]);
});

test("what is refused for another reason, or without cuDNN in it, is said", async () => {
  const broken = tools(() => "onnxruntime: no memory");
  await expect(load(loading("cuda-fused", false), broken)).rejects.toThrow("no memory");
  const refused = tools(() => "onnxruntime: cuDNN: a convolution failed");
  await expect(load(loading("cuda-fused-stock", false), refused)).rejects.toThrow("cuDNN");
  await expect(load(loading("cuda", false), refused)).rejects.toThrow("cuDNN");
});
