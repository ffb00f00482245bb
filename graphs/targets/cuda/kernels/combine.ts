/** Linear combinations of vectors, many in one launch: what a step does to running statistics, unrolled and multiplied out. */
import type { Value } from "../../../onnx/graph.ts";
import { add, mul, type Op, reshape, slice } from "../../../ops/index.ts";
import { defineKernel, literal } from "./kernel.ts";

/**
 * Each output's terms one after the other, in arrays because that is what an op's attributes are: the output, the input, where in
 * its elements the term begins, and what it is multiplied by. `lengths` are those of the outputs.
 */
type Combination = {
  readonly lengths: readonly number[];
  readonly outputs: readonly number[];
  readonly inputs: readonly number[];
  readonly offsets: readonly number[];
  readonly factors: readonly number[];
};

const THREADS = 128;

/** Places in the lists of the terms of an output. */
const termsOf = ({ outputs }: Combination, output: number): number[] =>
  outputs.flatMap((of, term) => (of === output ? [term] : []));

/** Any float32 inputs; output k [lengths[k]] is the sum of its terms. */
export const combineKernel: Op<readonly Value[], Combination> = defineKernel<readonly Value[], Combination>("combine", {
  attributes: { lengths: "ints", outputs: "ints", inputs: "ints", offsets: "ints", factors: "floats" },
  infer: (_, { lengths }) => lengths.map((length) => ({ dtype: "float32", shape: [length] })),
  lower: (inputs, combination) =>
    combination.lengths.map((length, output) =>
      termsOf(combination, output)
        .map((term) => {
          const begin = combination.offsets[term]!;
          const flat = reshape(inputs[combination.inputs[term]!]!, [-1]);
          return mul(slice(flat, [{ axis: 0, start: begin, end: begin + length }]), combination.factors[term]!);
        })
        .reduce((sum, part) => add(sum, part)),
    ),
  arguments: ({ inputs, outputs }) => [
    ["x", inputs.length],
    ["y", outputs.length],
  ],
  body: ({ attributes }) => {
    const sumOf = (output: number) =>
      termsOf(attributes, output)
        .map((term) => {
          const [from, begin] = [attributes.inputs[term], attributes.offsets[term]];
          return `${literal(attributes.factors[term]!)} * a.x[${from}][i + ${begin}]`;
        })
        .join(" + ");
    const cases = attributes.lengths.map(
      (length, k) => `    case ${k}:\n      if (i < ${length}) a.y[${k}][i] = ${sumOf(k)};\n      break;`,
    );
    return `
extern "C" __global__ void combine(const __grid_constant__ Arguments a) {
  const int i = blockIdx.x * ${THREADS} + threadIdx.x;
  switch (blockIdx.y) {
${cases.join("\n")}
  }
}`;
  },
  launches: ({ attributes: { lengths } }) => [
    {
      function: "combine",
      grid: [Math.ceil(Math.max(...lengths) / THREADS), lengths.length],
      block: THREADS,
      reads: ["x"],
      writes: ["y"],
    },
  ],
});
