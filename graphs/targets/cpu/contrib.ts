/** Ops beyond graphs/ops that CPU lowerings use: they run only, and never reach a saved file. */
import { check } from "../../onnx/error.ts";
import { apply, type Definition, type Type, type Value } from "../../onnx/graph.ts";
import { broadcast, convSize, defineOp, notDifferentiable, type Op, reshape, sameDtype } from "../../ops/index.ts";

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

type Along = { readonly kernel: number; readonly stride: number; readonly pads: readonly [number, number] };

const volumeConv: Definition = {
  name: "Conv",
  domain: "",
  attributes: { kernel_shape: "ints", strides: "ints", pads: "ints" },
  infer: ([x, w], attributes): Type[] => {
    const [kernel, strides, pads] = [attributes.kernel_shape, attributes.strides, attributes.pads] as number[][];
    const size = [0, 1, 2].map((i) =>
      convSize(
        (x as Value).dim(2 + i),
        kernel?.[i] as number,
        strides?.[i] as number,
        1,
        pads?.[i] as number,
        pads?.[i + 3] as number,
      ),
    );
    return [{ dtype: (x as Value).dtype, shape: [(x as Value).dim(0), (w as Value).dim(0), ...size] }];
  },
};

/** Filters [F, kernel] slid along one axis of x [n, a, size, b]: [n, F, a, size', b], ONNX's Conv over a volume. */
export const slide = (x: Value, filters: Value, { kernel, stride, pads }: Along): Value =>
  apply(volumeConv, [reshape(x, [x.dim(0), 1, ...x.shape.slice(1)]), filters], {
    kernel_shape: [1, kernel, 1],
    strides: [1, stride, 1],
    pads: [0, pads[0], 0, 0, pads[1], 0],
  })[0] as Value;

/** x in another shape, without a node where it has that shape already, and without a chain of reshapes. */
export const shaped = (x: Value, shape: readonly number[]): Value => {
  const source = x.node.definition === reshape.definition ? (x.node.inputs[0] as Value) : x;
  return source.shape.join() === shape.join() ? source : reshape(source, shape);
};
