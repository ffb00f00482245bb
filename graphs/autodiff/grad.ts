/**
 * Reverse-mode differentiation. The walk visits the nodes between `wrt` and the output once, in reverse; an op's rule
 * returns the cotangents of its inputs, and the walk alone sums them and undoes broadcasting. What nobody asks for is
 * built but never reached from an output, so it is not part of any file.
 */
import { GraphError } from "../onnx/error.ts";
import { constant, dependenciesOf, filled, type Node, onBehalfOf, type Value } from "../onnx/graph.ts";
import { visibleNodesOf } from "../onnx/order.ts";
import { add, definitionOf, reduceSum, reshape } from "../ops/index.ts";

/** Sums a cotangent over the axes along which `like` was broadcast. */
export const unbroadcast = (cotangent: Value, like: Value): Value => {
  if (cotangent.shape.join() === like.shape.join()) return cotangent;
  const extra = cotangent.rank - like.rank;
  const axes = cotangent.shape.flatMap((d, i) => (i < extra || (like.shape[i - extra] === 1 && d !== 1) ? [i] : []));
  return reshape(axes.length === 0 ? cotangent : reduceSum(cotangent, { axes, keepdims: 0 }), like.shape);
};

/**
 * Gradients of a scalar to each of `wrt`, in their shapes. A value that the scalar does not depend on gets undefined.
 * Throws a GraphError (not-differentiable) where the way there leads through an op without a gradient.
 */
export const maybeGrad = (y: Value, wrt: readonly Value[]): readonly (Value | undefined)[] => {
  if (y.size !== 1) throw new GraphError("shape", "only a scalar has a gradient; use vjp", { op: "grad", types: [y] });
  return vjp([y], [constant(filled(y.dtype, y.shape, 1))], wrt);
};

/**
 * Gradients of a scalar to each of `wrt`, in their shapes. Throws a GraphError (not-differentiable) where the scalar does not depend
 * on one of them, or the way there leads through an op without a gradient.
 */
export const grad = (y: Value, wrt: readonly Value[]): readonly Value[] =>
  maybeGrad(y, wrt).map((g, i) => {
    if (g === undefined)
      throw new GraphError("not-differentiable", `the output does not depend on value ${i} of wrt`, {
        op: "grad",
        path: wrt[i]!.node.path,
        types: [wrt[i]!],
      });
    return g;
  });

/** Vector-Jacobian product: cotangents of `outputs` carried back to `wrt`. */
export const vjp = (
  outputs: readonly Value[],
  cotangents: readonly Value[],
  wrt: readonly Value[],
): readonly (Value | undefined)[] => {
  const nodes = visibleNodesOf(outputs);
  const live = reachedFrom(wrt, nodes);
  const arrived = new Map<Value, Value[]>();
  const give = (value: Value, cotangent: Value): void => {
    arrived.set(value, [...(arrived.get(value) ?? []), cotangent]);
  };
  outputs.forEach((output, i) => {
    if (live.has(output)) give(output, cotangents[i]!);
  });
  const total = (value: Value): Value | undefined => {
    const parts = arrived.get(value);
    if (parts === undefined || parts.length < 2) return parts?.[0];
    const all = onBehalfOf(value.node, () => parts.reduce((a, b) => add(a, b)), "grad/");
    arrived.set(value, [all]);
    return all;
  };
  for (const node of nodes.reverse()) {
    const { vjp: rule } = definitionOf(node);
    if (rule === "zero" || !dependenciesOf(node).some((v) => live.has(v))) continue;
    const back = node.outputs.map(total);
    if (back.every((c) => c === undefined)) continue;
    if (typeof rule !== "function")
      throw new GraphError("not-differentiable", rule.reason, {
        op: node.definition.name,
        path: node.path,
        types: node.inputs,
      });
    onBehalfOf(
      node,
      () => {
        const call = { inputs: node.inputs, outputs: node.outputs, output: node.outputs[0]! };
        const given = rule({ ...call, cotangents: back, cotangent: back[0]!, attributes: node.attributes });
        given.forEach((c, i) => {
          const to = node.inputs[i]!;
          if (c !== null && live.has(to)) give(to, unbroadcast(c, to));
        });
      },
      "grad/",
    );
  }
  return wrt.map(total);
};

/** Values that depend differentiably on `wrt`, themselves included. */
const reachedFrom = (wrt: readonly Value[], nodes: readonly Node[]): ReadonlySet<Value> => {
  const live = new Set(wrt);
  for (const node of nodes)
    if (definitionOf(node).vjp !== "zero" && dependenciesOf(node).some((v) => live.has(v)))
      for (const output of node.outputs) live.add(output);
  return live;
};
