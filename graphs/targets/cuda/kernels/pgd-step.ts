/** A step of projected gradient descent under L∞ (Madry et al. 2018) in one pass: sign, add, project to ball and box. */
import type { Value } from "../../../onnx/graph.ts";
import { add, cast, clip, max, min, mul, type Op, sign, sub, transpose } from "../../../ops/index.ts";
import { defineKernel, literal } from "./kernel.ts";

type PgdStep = {
  readonly stepSize: number;
  readonly eps: number;
  /** 1 where the gradient lies channels last [N,H,W,C]; the images lie [N,C,H,W] in any case. */
  readonly channelsLast: number;
};

const THREADS = 256;

/** clip(x + stepSize · sign(gradient)) to within eps of the clean images and to [0, 1]. Images [N,C,H,W] float32. */
export const pgdStepKernel: Op<[x: Value, gradient: Value, clean: Value], PgdStep> = defineKernel<
  [x: Value, gradient: Value, clean: Value],
  PgdStep
>("pgdStep", {
  attributes: { stepSize: "float", eps: "float", channelsLast: "int" },
  infer: ([x]) => ({ dtype: x.dtype, shape: x.shape }),
  lower: ([x, gradient, clean], { stepSize, eps, channelsLast }) => {
    const placed = channelsLast ? transpose(gradient, { perm: [0, 3, 1, 2] }) : gradient;
    const moved = add(x, mul(cast(sign(placed), { to: x.dtype }), stepSize));
    return clip(min(max(moved, sub(clean, eps)), add(clean, eps)), 0, 1);
  },
  arguments: () => ["x", "gradient", "clean", "next"],
  body: ({ outputs: [y], attributes: { stepSize, eps, channelsLast } }) => {
    const [, channels = 1, height = 1, width = 1] = y?.shape ?? [];
    const size = (y?.shape ?? []).reduce((product, d) => product * d, 1);
    const at = channelsLast
      ? `(i / ${channels * height * width} * ${height * width} + i % ${height * width}) * ${channels} + i / ${height * width} % ${channels}`
      : "i";
    return `
extern "C" __global__ void pgdStep(const Arguments a) {
  const int i = blockIdx.x * ${THREADS} + threadIdx.x;
  if (i >= ${size}) return;
  const float g = load(a.gradient[${at}]);
  const float clean = a.clean[i];
  const float moved = a.x[i] + ${literal(stepSize)} * ((g > 0.0f) - (g < 0.0f));
  const float inBall = fminf(fmaxf(moved, clean - ${literal(eps)}), clean + ${literal(eps)});
  a.next[i] = fminf(fmaxf(inBall, 0.0f), 1.0f);
}`;
  },
  launches: ({ outputs: [y] }) => {
    const size = (y?.shape ?? []).reduce((product, d) => product * d, 1);
    return [
      {
        function: "pgdStep",
        grid: [Math.ceil(size / THREADS), 1],
        block: THREADS,
        reads: ["x", "gradient", "clean"],
        writes: ["next"],
      },
    ];
  },
});
