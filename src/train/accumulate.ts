/** Gradient accumulation: a batch in parts, one after another, whose gradients are averaged before one update. */
import { float32, type Tensor } from "../../graphs/onnx/tensor.ts";
import { feedName } from "../../graphs/steps/names.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { RequestError } from "../errors.ts";

type Tensors = Readonly<Record<string, Tensor>>;

/** Images of a part of a process's batch. Throws a RequestError where it does not come out whole. */
export const partOf = (batch: number, parts = 1, least = 2): number => {
  if (parts > 1 && (batch % parts !== 0 || batch / parts < least))
    throw new RequestError(
      `a batch of ${batch} can't be taken in ${parts} equal parts of at least ${least} (--accumulate); choose --batch as a multiple of it`,
    );
  return batch / parts;
};

/** Of a batch that is taken in parts, for the line that says what is trained. */
export const partsText = (parts = 1): string => (parts === 1 ? "" : `, each in ${parts} parts`);

/** Rows of part `index` of `parts`, of a tensor whose first axis is the batch. */
const rowsOf = ({ dtype, shape, data }: Tensor, index: number, parts: number): Tensor => {
  const each = data.length / parts;
  const rows = data.subarray(index * each, (index + 1) * each);
  return { dtype, shape: [shape[0]! / parts, ...shape.slice(1)], data: rows } as Tensor;
};

/** The inputs of one part; what does not hold a row an image, such as the learning rate, is the same for every part. */
const inputsOf = ({ store }: Step, inputs: Tensors, index: number, parts: number): Tensors => {
  const taken: Record<string, Tensor> = {};
  for (const [name, { shape }] of store.inputs) {
    const given = inputs[feedName(name)];
    if (given === undefined) continue;
    const isWhole = given.shape.join() === shape.join();
    const isBatch = given.shape.join() === [shape[0]! * parts, ...shape.slice(1)].join();
    if (!isWhole && !isBatch) throw new Error(`internal: ${name} can't be taken in ${parts} parts`);
    taken[feedName(name)] = isWhole ? given : rowsOf(given, index, parts);
  }
  return taken;
};

/**
 * Runs a program over the parts of a batch: gradients, metrics and running statistics become the means over parts, as they are
 * over ranks.
 *
 * @param run one run of the program `step`, which is built for a part
 */
export const accumulated =
  (run: (inputs: Tensors) => Promise<Record<string, Tensor>>, step: Step, parts: number): typeof run =>
  async (inputs) => {
    if (parts === 1) return run(inputs);
    const sums = new Map<string, { readonly shape: readonly number[]; readonly data: Float32Array }>();
    for (let index = 0; index < parts; index++)
      for (const [name, { dtype, shape, data }] of Object.entries(await run(inputsOf(step, inputs, index, parts)))) {
        if (dtype !== "float32") throw new Error(`internal: ${name} is ${dtype}, which is not averaged over parts`);
        const values = data as Float32Array;
        const sum = sums.get(name)?.data;
        if (sum === undefined) sums.set(name, { shape, data: Float32Array.from(values) });
        else for (let i = 0; i < values.length; i++) sum[i]! += values[i]!;
      }
    return Object.fromEntries(
      Array.from(sums, ([name, { shape, data }]) => [
        name,
        float32(
          shape,
          data.map((sum) => sum / parts),
        ),
      ]),
    );
  };
