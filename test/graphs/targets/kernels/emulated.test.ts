/** Every kernel's source, run on the CPU, against its portable meaning: ragged shapes, all dtypes, blocks in either order. */
import { describe, expect, test } from "@jest/globals";
import { fromFloat16, toFloat16 } from "../../../../graphs/onnx/float16.ts";
import { type Attributes, apply, input, type Value } from "../../../../graphs/onnx/graph.ts";
import { sizeOf, type Tensor } from "../../../../graphs/onnx/tensor.ts";
import { callOf, type Kernel, kernelOf } from "../../../../graphs/targets/cuda/kernels/kernel.ts";
import { logSumExp } from "../../../../graphs/targets/cuda/kernels/log-sum-exp.ts";
import { emulate, emulates } from "../../../emulator/emulator.ts";
import { evaluate, randomNumbers, relativeError } from "../../run.ts";
import { type KernelCase, kernelCases } from "./cases.ts";

const drawn = (random: () => number, { dtype, shape, low = -1, high = 1, masked }: KernelCase["inputs"][0]): Tensor => {
  const values = Float32Array.from({ length: sizeOf(shape) }, (_, i) =>
    masked !== undefined && (i % 2 === 1 || i % 3 === 2) ? masked : low + (high - low) * random(),
  );
  return { dtype, shape, data: dtype === "float16" ? toFloat16(values) : values };
};

/** Numbers of a tensor, whatever its element type. */
const numbersOf = ({ dtype, data }: Tensor): ArrayLike<number> =>
  dtype === "float16" ? fromFloat16(data as Uint16Array) : (data as Float32Array);

const check = async ({ op, inputs, attributes = {}, tolerance }: KernelCase, seed: number): Promise<void> => {
  const random = randomNumbers(seed);
  const given = inputs.map((one) => drawn(random, one));
  const values = given.map((type, i) => input(`x${i}`, { dtype: type.dtype, shape: type.shape }));
  const results = apply(op.definition, values, attributes as Attributes);
  const kernel = kernelOf(op.definition);
  if (kernel === undefined) throw new Error("it is no kernel");
  const call = callOf((results[0] as Value).node);
  const wanted = results.flatMap((value, i) => (kernel.isScratch(call, i) ? [] : [[`y${i}`, value] as const]));
  const feeds = Object.fromEntries(given.map((tensor, i) => [`x${i}`, tensor]));
  const expected = await evaluate(Object.fromEntries(wanted), feeds);
  const forwards = emulate(kernel, call, given);
  const backwards = emulate(kernel, call, given, "backwards");
  for (const [name] of wanted) {
    const i = Number(name.slice(1));
    const [ours, theirs] = [forwards[i] as Tensor, expected[name] as Tensor];
    expect(ours.shape).toEqual(theirs.shape);
    // Not a bit may depend on which block runs first.
    expect(backwards[i]?.data).toEqual(ours.data);
    const error = relativeError(numbersOf(ours), numbersOf(theirs));
    if (!(error <= tolerance)) throw new Error(`output ${i} is off by ${error} (seed ${seed})`);
  }
};

(emulates ? test : test.skip)("log Σ exp of infinities is infinite, and of what is no number none", () => {
  const rows = [
    [-1, -1, -1],
    [1, 0, 0],
    [1, -1, 0],
  ].map((row) => row.map((sign) => (sign === 0 ? 0 : sign / 0)));
  const data = Float32Array.from([...rows, [0, Number.NaN, 0], [-3e38, -3e38, -1 / 0]].flat());
  const x: Tensor = { dtype: "float32", shape: [5, 3], data };
  const y = logSumExp(input("x", { dtype: "float32", shape: [5, 3] }), { keepdims: 0 });
  const [found] = emulate(kernelOf(logSumExp.definition) as Kernel, callOf(y.node), [x]) as [Tensor];
  expect([...(found.data as Float32Array)]).toEqual([-1 / 0, 1 / 0, 1 / 0, Number.NaN, Math.fround(-3e38)]);
});

for (const [name, cases] of Object.entries(kernelCases))
  describe(name, () => {
    (emulates ? test : test.skip).each(cases.map((c, i) => [c.title, c, i] as const))("%s", async (_, c, i) =>
      check(c, i + 1),
    );
  });
