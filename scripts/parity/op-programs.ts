/** Every op that has a gradient, and its gradient, as programs: the cases of the gradient checks, and many convolutions. */
import { vjp } from "../../graphs/autodiff/grad.ts";
import { dtypes, isFloat } from "../../graphs/onnx/dtype.ts";
import { type Attributes, apply, constant, input, type Value } from "../../graphs/onnx/graph.ts";
import { sizeOf, type Tensor } from "../../graphs/onnx/tensor.ts";
import { type CheckedInput, conv, definitions, type GradcheckCase } from "../../graphs/ops/index.ts";
import { random } from "../../src/data/random.ts";

/** Of many channel counts, filters, batches and groups, among which providers choose kernels of their own. */
const convolutions: GradcheckCase<Attributes>[] = [];
for (const kernel of [1, 3])
  for (const strides of [1, 2])
    for (const [images, channels, filters, group] of [
      ...[1, 2, 3, 5, 6, 9, 12, 15].flatMap((n) => [
        [2, n, 4, 1] as const,
        [n, 4, 8, 1] as const,
        [n, n, 3, 1] as const,
      ]),
      [3, 4, 4, 2] as const,
      [2, 2, 4, 2] as const,
      [3, 6, 6, 6] as const,
      [2, 3, 6, 3] as const,
    ]) {
      const pads = [0, 1, 2, 3].map(() => kernel >> 1);
      convolutions.push({
        inputs: [{ shape: [images, channels, 6, 6] }, { shape: [filters, channels / group, kernel, kernel] }],
        attributes: { pads, strides: [strides, strides], group },
      });
    }

/**
 * Outputs by what they are, and what to feed. Composite ops are in a program of their own: what a target makes of them may be in an older
 * opset than some standard op.
 */
export const opPrograms = (): {
  readonly programs: readonly Readonly<Record<string, Value>>[];
  readonly feeds: Readonly<Record<string, Tensor>>;
} => {
  const programs: readonly Record<string, Value>[] = [{}, {}];
  const feeds: Record<string, Tensor> = {};
  for (const definition of definitions.values()) {
    if (typeof definition.vjp !== "function") continue;
    const outputs = programs[definition.lower === undefined ? 0 : 1] as Record<string, Value>;
    const cases = definition === conv.definition ? [...definition.gradcheck, ...convolutions] : definition.gradcheck;
    cases.forEach(({ inputs, attributes = {} }, index) => {
      const numbers = random(0, 0, index, definition.name);
      const drawn = ({ shape, values, low = -1, high = 1, dtype = "float32" }: CheckedInput): Tensor => {
        const data = new dtypes[dtype].array(sizeOf(shape));
        for (let i = 0; i < data.length; i++) {
          const value = values?.[i] ?? low + (high - low) * numbers.uniform();
          data[i] = data instanceof BigInt64Array || data instanceof BigUint64Array ? BigInt(value) : value;
        }
        return { dtype, shape, data };
      };
      const name = `${definition.name} ${index}`;
      const operands = inputs.map((given, i) => {
        const value = drawn(given);
        if (given.fixed) return constant(value);
        feeds[`${name} input ${i}`] = value;
        return input(`${name} input ${i}`, value);
      });
      const results = apply(definition, operands, attributes).filter(({ dtype }) => isFloat(dtype));
      // Statistics carry no gradient.
      const counted = /^batchNormTraining$|^LayerNorm/.test(definition.name) ? results.slice(0, 1) : results;
      const free = operands.filter((_, i) => !inputs[i]?.fixed);
      const cotangents = counted.map(({ shape, dtype }) => constant(drawn({ shape, dtype })));
      const described = `${name} of ${inputs.map(({ shape }) => `[${shape}]`).join(" ")} ${JSON.stringify(attributes)}`;
      results.forEach((y, i) => {
        outputs[`${described}, output ${i}`] = y;
      });
      vjp(counted, cotangents, free).forEach((gradient, i) => {
        if (gradient !== undefined) outputs[`${described}, gradient ${i}`] = gradient;
      });
    });
  }
  return { programs, feeds };
};
