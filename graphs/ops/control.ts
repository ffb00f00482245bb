/** Control flow. */
import { check } from "../onnx/error.ts";
import { type Attributes, apply, type Subgraph, scalar, subgraph, type Value } from "../onnx/graph.ts";
import { defineOp, notDifferentiable } from "./define.ts";
import { identity } from "./elementwise.ts";

const loopOp = defineOp<readonly Value[], { body: Subgraph }>("Loop", {
  attributes: { body: "graph" },
  infer: ([, , ...initial], { body }) => {
    const types = body.outputs.slice(1).map(({ dtype, shape }) => ({ dtype, shape }));
    check(
      types.length === initial.length,
      "shape",
      `the body returns ${types.length} values but carries ${initial.length}`,
    );
    types.forEach(({ dtype, shape }, i) => {
      const start = initial[i]!;
      check(
        dtype === start.dtype && shape.join() === start.shape.join(),
        "shape",
        `carried value ${i} starts as ${start.dtype}[${start.shape}] but the body returns ${dtype}[${shape}]`,
      );
    });
    return types;
  },
  vjp: notDifferentiable("gradients do not flow through a Loop; unroll it, or stop the gradient before it"),
});

/**
 * Repeats a body: it gets the iteration number (int64 scalar) and the carried values, and returns the carried values anew.
 * What the body reads from outside stays outside; what in it depends on nothing carried is computed once.
 */
export const loop = (
  times: number,
  initial: readonly Value[],
  body: (iteration: Value, carried: readonly Value[]) => readonly Value[],
): readonly Value[] => {
  const types = [{ dtype: "int64" as const, shape: [] }, { dtype: "bool" as const, shape: [] }, ...initial];
  const built = subgraph(types, ([iteration, condition, ...carried]) => [
    identity(condition as Value),
    ...body(iteration as Value, carried),
  ]);
  return apply(loopOp.definition, [scalar(times, "int64"), scalar(1, "bool"), ...initial], {
    body: built,
  } as unknown as Attributes);
};
export const loopDefinition = loopOp.definition;

/** The same, written out `times` times. */
export const unroll: typeof loop = (times, initial, body) => {
  let carried = initial;
  for (let i = 0; i < times; i++) carried = body(scalar(i, "int64"), carried);
  return carried;
};
