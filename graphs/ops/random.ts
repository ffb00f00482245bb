/** Random numbers of the engine: only read from files, for nothing of this project is random inside a graph. */
import type { DType } from "../onnx/dtype.ts";
import { check } from "../onnx/error.ts";
import type { AttributeKind, Value } from "../onnx/graph.ts";
import { defineOp, type Op } from "./define.ts";

type Drawn = { dtype?: DType; seed?: number };
type Numbers = Readonly<Record<string, AttributeKind>>;

const defineRandom = (name: string, numbers: Numbers): Op<readonly Value[], Drawn & { shape?: readonly number[] }> =>
  defineOp<readonly Value[], Drawn & { shape?: readonly number[] }>(name, {
    attributes: { dtype: "dtype", seed: "float", shape: "ints", ...numbers },
    infer: (_, { dtype = "float32", shape }) => {
      check(shape !== undefined, "attribute", "the shape is missing");
      return { dtype, shape };
    },
    vjp: "zero",
  });
const defineRandomLike = (name: string, numbers: Numbers): Op<[x: Value], Drawn> =>
  defineOp<[x: Value], Drawn>(name, {
    attributes: { dtype: "dtype", seed: "float", ...numbers },
    infer: ([x], { dtype = x.dtype }) => ({ dtype, shape: x.shape }),
    vjp: "zero",
  });

const normal = { mean: "float", scale: "float" } as const;
const uniform = { low: "float", high: "float" } as const;
export const randomNormal = defineRandom("RandomNormal", normal);
export const randomNormalLike = defineRandomLike("RandomNormalLike", normal);
export const randomUniform = defineRandom("RandomUniform", uniform);
export const randomUniformLike = defineRandomLike("RandomUniformLike", uniform);
