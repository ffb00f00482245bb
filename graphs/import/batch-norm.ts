/** BatchNormalization of files: of features as its own statistics have it, of a weight as that weight's own have it. */
import { check } from "../onnx/error.ts";
import { isAbsent, type Value } from "../onnx/graph.ts";
import { add, alongChannels, batchNormalization, div, mul, reduceMean, reshape, sqrt, sub } from "../ops/index.ts";
import type { Reading } from "./readings.ts";

/**
 * In training mode only of a value whose first axis is 1: weight standardisation (Qiao et al. 2019) is exported so, by
 * [1, filters, …]. Features would have the statistics of each batch.
 */
export const fileBatchNorm: Reading = {
  attributes: { epsilon: "float", momentum: "float", training_mode: "int" },
  inputs: [1, 5],
  build: (inputs, { epsilon = 1e-5, momentum = 0.9, training_mode: training = 0 }) => {
    check(inputs.length === 5 && !inputs.some(isAbsent), "malformed", "an input that it needs is left out");
    const [x, scale, bias, mean, variance] = inputs as [Value, Value, Value, Value, Value];
    const eps = epsilon as number;
    if (training === 0) return batchNormalization(x, scale, bias, mean, variance, { epsilon: eps });
    check(
      x.dim(0) === 1,
      "unsupported",
      "it was exported in training mode; call model.eval() before torch.onnx.export",
    );
    const axes = x.shape.flatMap((_, i) => (i === 1 ? [] : [i]));
    const own = reduceMean(x, { axes });
    const centred = sub(x, own);
    const spread = reduceMean(mul(centred, centred), { axes });
    const normal = div(centred, sqrt(add(spread, eps)));
    const y = add(mul(normal, alongChannels(scale, x.rank)), alongChannels(bias, x.rank));
    const keep = momentum as number;
    const moved = (held: Value, now: Value) => add(mul(held, keep), mul(reshape(now, held.shape), 1 - keep));
    return [y, moved(mean, own), moved(variance, spread)];
  },
};
