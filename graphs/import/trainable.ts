/** Which weights of an ONNX file training may move. */
import type { FileModel } from "../onnx/parse.ts";

/** Inputs of ops that are weights wherever they stand; a batch norm's statistics are not. */
const weighted: ReadonlyMap<string, readonly number[]> = new Map([
  ["Conv", [1, 2]],
  ["ConvTranspose", [1, 2]],
  ["Gemm", [1, 2]],
  ["MatMul", [0, 1]],
  ["BatchNormalization", [1, 2]],
  ["LayerNormalization", [1, 2]],
  ["InstanceNormalization", [1, 2]],
  ["PRelu", [1]],
]);
/** Ops whose constant operand is a weight (a bias, a layer's scale) once the images went through a weighted op. */
const elementwise = ["Add", "Sub", "Mul"];
/** Such an operand of fewer elements is a number of the program, not a weight: 0.5 in a GELU, a colour's mean. */
const LEAST = 4;

/**
 * Names of the float32 initializers that are weights. What acts on the images before any weighted op is their
 * normalisation and stays; so does an initializer that something reads otherwise.
 */
export const trainableInitializers = ({ initializers, nodes, inputs }: FileModel): ReadonlySet<string> => {
  const yes = new Set<string>();
  const no = new Set<string>();
  // Values that are images still: no weighted op lies behind them.
  const raw = new Set(inputs.map(({ name }) => name));
  for (const { op, domain, inputs: given, outputs } of nodes) {
    const places = domain === "" || domain === "ai.onnx" ? weighted.get(op) : undefined;
    const onImages = given.some((name) => raw.has(name));
    const scales = elementwise.includes(op) && !onImages;
    given.forEach((name, i) => {
      const held = initializers.get(name);
      if (held === undefined) return;
      const isWeight =
        held.dtype === "float32" &&
        held.shape.length > 0 &&
        (places?.includes(i) || (scales && held.data.length >= LEAST));
      (isWeight ? yes : no).add(name);
    });
    if (onImages && places === undefined) for (const name of outputs) raw.add(name);
  }
  return new Set([...yes].filter((name) => !no.has(name)));
};
