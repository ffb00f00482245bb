/** ONNX files for tests of the loader: one small classifier in the disguises that exporters give it. */
import onnxProto from "onnx-proto";
import type { DType } from "../../graphs/onnx/dtype.ts";
import { constant, input, type Value } from "../../graphs/onnx/graph.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { conv, gemm, reduceMean, relu, reshape } from "../../graphs/ops/index.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { randomNumbers } from "../graphs/run.ts";

export const { onnx } = onnxProto;
export type Proto = ReturnType<typeof onnx.ModelProto.decode>;

const weights = (random: () => number, shape: number[]): Value =>
  constant(
    float32(
      shape,
      Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 2 * random() - 1),
    ),
  );

const random = randomNumbers(11);
const [kernel, matrix, bias] = [weights(random, [6, 3, 3, 3]), weights(random, [5, 6]), weights(random, [5])];

/** [B,3,8,8] to features [B,6]. */
export const featuresOf = (x: Value): Value =>
  reshape(reduceMean(relu(conv(x, kernel, { pads: [1, 1, 1, 1], strides: [2, 2] })), { axes: [2, 3] }), [-1, 6]);
/** … and to the logits of five classes. */
export const logitsOf = (x: Value): Value => gemm(featuresOf(x), matrix, bias, { transB: 1 });

export interface FileOptions {
  readonly dtype?: DType;
  readonly shape?: readonly number[];
  /** Names of open dimensions of the input. */
  readonly dynamic?: readonly (string | undefined)[];
  readonly metadata?: Readonly<Record<string, string>>;
}

/** The bytes of a model of `images`. */
export const fileOf = (
  outputs: (x: Value) => Readonly<Record<string, Value>>,
  { dtype = "float32", shape = [2, 3, 8, 8], dynamic = ["batch"], metadata = {} }: FileOptions = {},
): Uint8Array =>
  buildModel(lower(outputs(input("images", { dtype, shape })), portable), [], {
    opset: 17,
    metadata,
    dynamic: { images: dynamic as string[] },
  }).bytes;

/** The same file, changed. */
export const changed = (bytes: Uint8Array, change: (model: Proto) => void): Uint8Array => {
  const model = onnx.ModelProto.decode(bytes);
  change(model);
  return onnx.ModelProto.encode(model).finish();
};
