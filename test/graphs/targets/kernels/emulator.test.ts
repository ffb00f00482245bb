/** That the emulator sees what it is there to see: barriers that are missing or not all reach, writes outside, reads of nothing. */
import { describe, expect, test } from "@jest/globals";
import { float32 } from "../../../../graphs/onnx/tensor.ts";
import { type Kernel, type KernelCall, type Launch, literal } from "../../../../graphs/targets/cuda/kernels/kernel.ts";
import { emulate, emulates } from "../../../emulator/emulator.ts";

const vector = { dtype: "float32", shape: [64] } as const;
const call: KernelCall = { inputs: [vector], outputs: [vector], attributes: {} };
const launch: Launch = { function: "f", grid: [2, 1], block: 32, reads: ["x"], writes: ["y"] };

const run = (body: string, order?: "backwards") => {
  const kernel: Kernel = {
    arguments: () => ["x", "y"],
    source: () => `struct Arguments { const float* x; float* y; };
extern "C" __global__ void f(const Arguments a) {
  const int t = threadIdx.x, i = blockIdx.x * 32 + t;
${body}
}`,
    launches: () => [launch],
    isScratch: () => false,
  };
  const x = float32(
    [64],
    Float32Array.from({ length: 64 }, (_, i) => i),
  );
  return Array.from(emulate(kernel, call, [x], order)[0]?.data as Float32Array);
};
/** The block in reverse, through shared memory. */
const turned = (barrier: string) => `  __shared__ float s[32];
  s[t] = a.x[i];
  ${barrier}
  a.y[i] = s[31 - t];`;
const expected = Array.from({ length: 64 }, (_, i) => 32 * Math.floor(i / 32) + 31 - (i % 32));

const here = emulates ? describe : describe.skip;
here("the emulator", () => {
  test("runs threads with barriers and shared memory", () => {
    expect(run(turned("__syncthreads();"))).toEqual(expected);
    expect(run(turned("__syncthreads();"), "backwards")).toEqual(expected);
  });
  test("gives other results without the barrier", () => {
    expect(run(turned(""))).not.toEqual(expected);
  });
  test("tells of a barrier that some threads do not reach", () => {
    expect(() => run("  if (t < 5) return;\n  __syncthreads();\n  a.y[i] = 0;")).toThrow(/others wait at a barrier/);
  });
  test("tells of a write outside of an output", () => {
    expect(() => run("  a.y[i + 1] = 1;")).toThrow(/written outside of y/);
    expect(() => run("  a.y[i] = 1;\n  if (i == 0) a.y[-1] = 1;")).toThrow(/written outside of y/);
  });
  test("has no number where nothing was written, and none past an input", () => {
    expect(run("  if (i != 3) a.y[i] = 1;")[3]).toBeNaN();
    expect(run("  a.y[i] = a.x[i + 1];")[63]).toBeNaN();
  });
});

test("literals keep a float's digits", () => {
  expect([1, 0.1, 1e-5, -2, 4096, 2 ** 70].map(literal)).toEqual([
    "1.0f",
    "0.10000000149011612f",
    "0.000009999999747378752f",
    "-2.0f",
    "4096.0f",
    "1.1805916207174113e+21f",
  ]);
});
