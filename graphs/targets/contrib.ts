/** Ops of ONNX Runtime's own that lowerings use: they run only, and never reach a saved file. */
import { check } from "../onnx/error.ts";
import type { Type, Value } from "../onnx/graph.ts";
import { broadcast, defineOp, notDifferentiable, type Op, sameDtype } from "../ops/index.ts";

type Transposed = { readonly alpha?: number; readonly transA?: number; readonly transB?: number };

/** alpha · op(a) · op(b) over the last two axes, op a transpose where transA, transB are 1; the other axes broadcast. */
export const fusedMatMul: Op<[a: Value, b: Value], Transposed> = defineOp<[a: Value, b: Value], Transposed>(
  "FusedMatMul",
  {
    attributes: { alpha: "float", transA: "int", transB: "int" },
    infer: ([a, b], { transA = 0, transB = 0 }): Type => {
      const [m, k] = transA ? [a.dim(-1), a.dim(-2)] : [a.dim(-2), a.dim(-1)];
      const [l, n] = transB ? [b.dim(-1), b.dim(-2)] : [b.dim(-2), b.dim(-1)];
      check(k === l, "shape", `a has inner dimension ${k} but b has ${l}`);
      return { dtype: sameDtype([a, b]), shape: [...broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2)), m, n] };
    },
    vjp: notDifferentiable("runs only, never differentiated"),
  },
  "com.microsoft",
);
