/** Matrix products. */
import { check } from "../onnx/error.ts";
import { isAbsent, type Value } from "../onnx/graph.ts";
import { broadcast, defineOp, type Op, sameDtype } from "./define.ts";
import { mul } from "./elementwise.ts";
import { transpose } from "./movement.ts";

/** Swaps the last two axes. */
export const matrixTranspose = (x: Value): Value => {
  const perm = x.shape.map((_, i) => i);
  [perm[x.rank - 2], perm[x.rank - 1]] = [x.rank - 1, x.rank - 2];
  return transpose(x, { perm });
};

/** Matrix product over the last two axes, the others broadcast (numpy's matmul; both of rank 2 or more). */
export const matMul: Op<[a: Value, b: Value]> = defineOp<[a: Value, b: Value]>("MatMul", {
  infer: ([a, b]) => {
    check(a.rank >= 2 && b.rank >= 2, "shape", "both must have rank 2 or more");
    check(a.dim(-1) === b.dim(-2), "shape", `a has ${a.dim(-1)} columns but b has ${b.dim(-2)} rows`);
    const batch = broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2));
    return { dtype: sameDtype([a, b]), shape: [...batch, a.dim(-2), b.dim(-1)] };
  },
  vjp: ({ inputs: [a, b], cotangent: dy }) => [matMul(dy, matrixTranspose(b)), matMul(matrixTranspose(a), dy)],
  gradcheck: [
    { inputs: [{ shape: [2, 3] }, { shape: [3, 4] }], step: 1 },
    { inputs: [{ shape: [2, 1, 2, 3] }, { shape: [4, 3, 2] }], step: 1 },
  ],
});

type Gemm = { alpha?: number; beta?: number; transA?: number; transB?: number };
/** alpha·op(a)·op(b) + beta·c with op a transpose where transA, transB are 1; c broadcasts and may be left out. */
export const gemm: Op<[a: Value, b: Value, c: Value], Gemm> & ((a: Value, b: Value, attributes?: Gemm) => Value) =
  defineOp<[a: Value, b: Value, c: Value], Gemm>("Gemm", {
    attributes: { alpha: "float", beta: "float", transA: "int", transB: "int" },
    minInputs: 2,
    infer: ([a, b, c], { transA = 0, transB = 0 }) => {
      check(a.rank === 2 && b.rank === 2, "shape", "a and b must be matrices");
      const [m, k] = transA ? [a.dim(1), a.dim(0)] : [a.dim(0), a.dim(1)];
      const [l, n] = transB ? [b.dim(1), b.dim(0)] : [b.dim(0), b.dim(1)];
      check(k === l, "shape", `a has inner dimension ${k} but b has ${l}`);
      if (!isAbsent(c))
        check(broadcast(c.shape, [m, n]).join() === `${m},${n}`, "shape", `c does not broadcast to [${m}, ${n}]`);
      return { dtype: sameDtype(isAbsent(c) ? [a, b] : [a, b, c]), shape: [m, n] };
    },
    vjp: ({ inputs: [a, b, c], cotangent: dy, attributes: { alpha = 1, beta = 1, transA = 0, transB = 0 } }) => {
      const da = transA
        ? gemm(b, dy, { alpha, transA: transB, transB: 1 })
        : gemm(dy, b, { alpha, transB: transB ? 0 : 1 });
      const db = transB
        ? gemm(dy, a, { alpha, transA: 1, transB: transA })
        : gemm(a, dy, { alpha, transA: transA ? 0 : 1 });
      return [da, db, isAbsent(c) ? null : beta === 1 ? dy : mul(dy, beta)];
    },
    gradcheck: [0, 1].flatMap((transA) =>
      [0, 1].map((transB) => ({
        inputs: [{ shape: transA ? [3, 2] : [2, 3] }, { shape: transB ? [4, 3] : [3, 4] }, { shape: [4] }],
        attributes: { alpha: 0.5, beta: 2, transA, transB },
        step: 1,
      })),
    ),
  }) as never;
