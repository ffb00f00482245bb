/** A file as the runtime has it: no op is read here, and none need be known. */
import onnxProto from "onnx-proto";
import { toFloat16 } from "../../graphs/onnx/float16.ts";
import type { FileModel } from "../../graphs/onnx/parse.ts";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { createSession, type SessionOptions } from "../engine/session.ts";
import { RequestError } from "../errors.ts";
import type { ModelFile } from "./file.ts";
import type { ImageInput, Normalisation } from "./input.ts";

const { onnx } = onnxProto;

export interface AsIs {
  /**
   * The value that was asked for, of pixels float32 [N,3,S,S] in [0, 1], which it may write over.
   * @throws RequestError in words of ours where the runtime fails
   */
  run(pixels: Tensor<"float32">): Promise<Tensor>;
  release(): Promise<void>;
}

export interface AsIsOptions extends Normalisation {
  readonly images: ImageInput;
  /** An output or any inner value. */
  readonly output: string;
}

/** The file with an inner value among its outputs. */
const withOutput = (bytes: Uint8Array, { outputs }: FileModel, output: string): Uint8Array => {
  if (outputs.includes(output)) return bytes;
  const model = onnx.ModelProto.decode(bytes);
  model.graph?.output?.push({ name: output });
  return onnx.ModelProto.encode(model).finish();
};

/** Pixels [N,3,H,W] in [0, 1] as the model takes them. */
const prepared = (
  pixels: Tensor<"float32">,
  { images: { layout, dtype }, mean = [], std = [] }: AsIsOptions,
): Tensor => {
  const [n = 0, c = 0, h = 0, w = 0] = pixels.shape;
  const plane = h * w;
  const of = (values: readonly number[], channel: number, otherwise: number): number =>
    values[values.length === 1 ? 0 : channel] ?? otherwise;
  const out = layout === "nhwc" ? new Float32Array(pixels.data.length) : pixels.data;
  for (let b = 0; b < n; b++)
    for (let channel = 0; channel < c; channel++) {
      const [m, s] = [of(mean, channel, 0), of(std, channel, 1)];
      const from = (b * c + channel) * plane;
      for (let p = 0; p < plane; p++) {
        const value = (pixels.data[from + p]! - m) / s;
        out[layout === "nhwc" ? (b * plane + p) * c + channel : from + p] = value;
      }
    }
  const shape = layout === "nhwc" ? [n, h, w, c] : pixels.shape;
  if (dtype === "float16") return tensor("float16", shape, toFloat16(out));
  if (dtype === "float32") return tensor("float32", shape, out);
  return tensor(
    "uint8",
    shape,
    Uint8Array.from(out, (v) => Math.round(255 * v)),
  );
};

/** What the runtime says, as a sentence of ours: the node that it names, and what to do. Its own words stay in the cause. */
const refused = ({ path, file }: Pick<ModelFile, "path" | "file">, cause: unknown, doing: string): RequestError => {
  const said = cause instanceof Error ? cause.message : String(cause);
  const quoted = new Set(Array.from(said.matchAll(/[('":]\s*([^\s'"():,]+)(?=['"):,]|\s)/g), ([, name = ""]) => name));
  const node = file.nodes.find(({ name }) => name !== "" && (quoted.has(name) || said.includes(`'${name}'`)));
  const op = file.nodes.find((given) => quoted.has(given.op))?.op;
  const where = node === undefined ? (op === undefined ? "" : ` (${op})`) : ` (${node.op} at ${node.name})`;
  if (/not a registered function|NOT_IMPLEMENTED|Could not find an implementation/i.test(said))
    return new RequestError(
      `${path} asks for an operator that the runtime lacks${where}; export it with standard ops and float32, such as by opset_version=17`,
      { cause },
    );
  if (/IR version|under development|opset/i.test(said))
    return new RequestError(`${path} is of a newer version than the runtime; export it with opset_version=17`, {
      cause,
    });
  return new RequestError(
    `the runtime can't ${doing} ${path}${where}; check it with onnx.checker.check_model, or export it again`,
    { cause },
  );
};

/** Loads a file as it is. */
export const openAsIs = async (model: ModelFile, options: AsIsOptions, session: SessionOptions): Promise<AsIs> => {
  const { images, output } = options;
  const loaded = await createSession(withOutput(model.bytes, model.file, output), session).catch((error: unknown) => {
    throw refused(model, error, "load");
  });
  return {
    run: async (pixels) => {
      try {
        return (await loaded.run({ [images.name]: prepared(pixels, options) }, [output]))[output]!;
      } catch (error) {
        throw refused(model, error, "run");
      }
    },
    release: () => loaded.release(),
  };
};
