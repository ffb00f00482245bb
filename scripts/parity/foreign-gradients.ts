/** Logits and gradients of a model from elsewhere beside those that PyTorch gave (scripts/fixtures/foreign_models.py). */
import { grad } from "../../graphs/autodiff/grad.ts";
import { readModel } from "../../graphs/import/read.ts";
import { trainableInitializers } from "../../graphs/import/trainable.ts";
import { constant, type Value } from "../../graphs/onnx/graph.ts";
import { parseModel } from "../../graphs/onnx/parse.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { mul, reduceSum } from "../../graphs/ops/index.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { createSession } from "../../src/engine/session.ts";

export interface ForeignErrors {
  /** Relative L2 to PyTorch's. */
  readonly logits: number;
  readonly input: number;
  /** Of each weight's gradient, by the file's name of the weight. */
  readonly weights: ReadonlyMap<string, number>;
  /** Weights that training would move and that PyTorch gave no gradient of, but for an exporter's own: all ones, all zeros. */
  readonly unknown: readonly string[];
  readonly nodes: number;
}

const apart = (ours: Tensor, truth: Tensor): number => {
  if (ours.shape.join() !== truth.shape.join()) return Number.POSITIVE_INFINITY;
  let [difference, norm] = [0, 0];
  for (let i = 0; i < truth.data.length; i++) {
    difference += (Number(ours.data[i]) - Number(truth.data[i])) ** 2;
    norm += Number(truth.data[i]) ** 2;
  }
  return Math.sqrt(difference / norm);
};

/**
 * Runs a model and the gradients of Σ weights·logits once.
 * @param file the ONNX file's bytes
 * @param truth x, weights, logits and gradient (of x)
 * @param gradients of initializers, by name
 */
export const foreignErrors = async (
  file: Uint8Array,
  truth: ReadonlyMap<string, Tensor>,
  gradients: ReadonlyMap<string, Tensor>,
): Promise<ForeignErrors> => {
  const of = (name: string) => truth.get(name) as Tensor;
  const parsed = parseModel(file);
  const model = readModel(parsed, {
    batch: of("x").shape[0]!,
    parameter: (name) => (gradients.has(name) ? `param.${name}` : undefined),
  });
  const [x] = Object.values(model.inputs) as [Value];
  const [logits] = Object.values(model.outputs) as [Value];
  const names = [...gradients.keys()];
  const loss = reduceSum(mul(logits, constant(of("weights"))), { keepdims: 0 });
  const [dx, ...dw] = grad(loss, [x, ...names.map((name) => model.parameters[name]!)]) as [Value, ...Value[]];
  const built = buildModel(
    lower({ logits, dx, ...Object.fromEntries(dw.map((value, i) => [`grad.${names[i]}`, value])) }, portable),
  );
  const session = await createSession(built, { threads: 1 });
  try {
    const weights = names.map((name) => [`param.${name}`, model.weights[name]!]);
    const result = await session.run({
      ...Object.fromEntries(weights),
      [Object.keys(model.inputs)[0]!]: of("x"),
    });
    return {
      logits: apart(result.logits as Tensor, of("logits")),
      input: apart(result.dx as Tensor, of("gradient")),
      weights: new Map(names.map((name) => [name, apart(result[`grad.${name}`]!, gradients.get(name) as Tensor)])),
      unknown: [...trainableInitializers(parsed)].filter((name) => {
        const { data = [] } = model.weights[name] ?? {};
        return !gradients.has(name) && data.some((v) => v !== data[0]);
      }),
      nodes: built.nodes.size,
    };
  } finally {
    await session.release();
  }
};
