/** What CPU lowerings use beyond graphs/ops: it runs only, and never reaches a saved file. */
import { apply, constant, type Definition, filled, type Type, type Value } from "../../onnx/graph.ts";
import { convSize, reshape } from "../../ops/index.ts";

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
  const source = x.node.definition === reshape.definition ? x.node.inputs[0]! : x;
  return source.shape.join() === shape.join() ? source : reshape(source, shape);
};

const rows = new Map<string, Value>();
/** A row of n equal numbers, [1, n]. */
export const row = (n: number, value: number): Value => {
  const key = `${n} ${value}`;
  const known = rows.get(key) ?? constant(filled("float32", [1, n], value));
  rows.set(key, known);
  return known;
};
