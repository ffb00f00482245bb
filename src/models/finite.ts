/** Weights that are no numbers: what a training leaves that failed. */
import { isFloat } from "../../graphs/onnx/dtype.ts";
import type { FileBody, FileModel, FileNode } from "../../graphs/onnx/parse.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";

/** Ops that make NaN of an infinite operand: elsewhere infinity may be meant, such as in the mask of an attention. */
const multiplying = new Set(["Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization"]);

/** Whether a tensor holds NaN or an infinity. */
const oddOf = ({ dtype, data }: Tensor): "NaN" | "infinity" | undefined => {
  let infinite = false;
  if (dtype === "float16") {
    for (const half of data as Uint16Array) {
      if ((half & 0x7c00) !== 0x7c00) continue;
      if ((half & 0x3ff) !== 0) return "NaN";
      infinite = true;
    }
  } else
    for (const value of data as Float32Array) {
      if (Number.isNaN(value)) return "NaN";
      if (!Number.isFinite(value)) infinite = true;
    }
  return infinite ? "infinity" : undefined;
};

/** Names of the weights that are not finite, with what they hold. */
const oddWeights = (
  weights: Iterable<readonly [string, Tensor]>,
  infinityCounts: (name: string) => boolean,
): string[] =>
  Array.from(weights).flatMap(([name, held]) => {
    if (!isFloat(held.dtype)) return [];
    const odd = oddOf(held);
    return odd === undefined || (odd === "infinity" && !infinityCounts(name)) ? [] : [`${name} holds ${odd}`];
  });

const refuseOdd = (path: string, odd: readonly string[]): void => {
  if (odd.length === 0) return;
  const [first] = odd;
  const others = odd.length === 1 ? "" : ` (and ${odd.length - 1} more)`;
  throw new RequestError(
    `the weight ${first}${others} in ${path}: the training failed there; give an earlier checkpoint`,
  );
};

/**
 * Refuses weights that are not finite.
 * @throws RequestError naming the first of them
 */
export const checkFinite = (path: string, weights: ReadonlyMap<string, Tensor>): void =>
  refuseOdd(
    path,
    oddWeights(weights, () => true),
  );

/** The graphs within nodes, and those within them. */
function* bodiesOf(nodes: readonly FileNode[]): Generator<FileBody> {
  for (const { attributes } of nodes)
    for (const given of attributes.values())
      if (given.kind === "graph") {
        yield given.value;
        yield* bodiesOf(given.value.nodes);
      }
}

/**
 * The same of a file, where an infinity is refused only in what is multiplied.
 * @throws RequestError naming the first of them
 */
export const checkFiniteFile = (path: string, file: FileModel): void => {
  const bodies = [...bodiesOf(file.nodes)];
  const nodes = [file, ...bodies].flatMap((graph) => graph.nodes);
  const multiplied = new Set(nodes.flatMap(({ op, inputs }) => (multiplying.has(op) ? inputs : [])));
  const constants = nodes.flatMap(({ op, outputs, attributes }): (readonly [string, Tensor])[] => {
    const value = op === "Constant" ? attributes.get("value") : undefined;
    return value?.kind === "tensor" ? [[outputs[0] ?? "", value.value]] : [];
  });
  refuseOdd(
    path,
    oddWeights([...file.initializers, ...bodies.flatMap((body) => [...body.initializers]), ...constants], (name) =>
      multiplied.has(name),
    ),
  );
};
