/** What brings pixels in [0, 1] to what a network was trained on: (x - mean) / std by channel. */
import { constant, type Value } from "../onnx/graph.ts";
import { float32 } from "../onnx/tensor.ts";
import { div, sub } from "../ops/index.ts";
import type { Layer } from "./layer.ts";

/** Three numbers each, of red, green and blue in [0, 1]. */
export interface Normalisation {
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/**
 * Images [N,3,H,W] normalised, as a part of the network: the first convolution pads with zeros after it, so that it can't be
 * folded into that one's weights exactly. Without a normalisation the images themselves.
 */
export const normalise =
  (normalisation: Normalisation | undefined): Layer =>
  (scope, images) => {
    if (normalisation === undefined) return images;
    const channels = (values: readonly number[]): Value => constant(float32([1, 3, 1, 1], values));
    const { mean, std } = normalisation;
    return scope.at("normalize").run(() => div(sub(images, channels(mean)), channels(std)));
  };
