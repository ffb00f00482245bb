/** Which input of a model are its images, and how pixels in [0, 1] become what it takes. */
import { constant, type Value } from "../../graphs/onnx/graph.ts";
import type { FileInput, FileModel } from "../../graphs/onnx/parse.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { add, cast, div, mul, round, stopGradient, sub, transpose } from "../../graphs/ops/index.ts";
import { RequestError } from "../errors.ts";
import { sizeToldBy, withoutRounding } from "./preprocessing.ts";

export const layouts = ["nchw", "nhwc"] as const;
export type Layout = (typeof layouts)[number];

export interface ImageInput {
  readonly name: string;
  readonly dtype: "float32" | "float16" | "uint8";
  readonly layout: Layout;
  /** Side of its images; undefined where the file leaves it open. */
  readonly size: number | undefined;
  /** Images that the file fixes for a run. */
  readonly batch: number | undefined;
  /** What was guessed, as sentences for people. */
  readonly guesses: readonly string[];
}

export interface InputRequest {
  /** Side of the images, where the file leaves it open. */
  readonly size?: number | undefined;
  readonly layout?: Layout | undefined;
}

const typeOf = ({ dtype, dims }: FileInput): string => `${dtype}[${dims.map((d) => d ?? "?").join(",")}]`;

/** The input that takes the images. */
const onlyInput = ({ inputs }: FileModel, path: string): FileInput => {
  const [only, ...others] = inputs;
  if (only === undefined) throw new RequestError(`${path} takes no input; give a model of images`);
  if (others.length > 0) {
    const all = inputs.map((input) => `${input.name} ${typeOf(input)}`).join(", ");
    throw new RequestError(
      `${path} has ${inputs.length} inputs (${all}) and a model of images has one; export it with the others as constants`,
    );
  }
  if (only.dims.length !== 4)
    throw new RequestError(
      `the input ${only.name} of ${path} is ${typeOf(only)}; export the model for batches of images, float32[batch,3,height,width]`,
    );
  if (only.dims.includes(0))
    throw new RequestError(
      `the input ${only.name} of ${path} is declared as [${only.dims.join(",")}], which holds no image; declare the batch as dynamic or at least 1`,
    );
  return only;
};

const dtypeOf = (input: FileInput, path: string): ImageInput["dtype"] => {
  const { dtype } = input;
  if (dtype === "float32" || dtype === "float16" || dtype === "uint8") return dtype;
  throw new RequestError(
    `the input ${input.name} of ${path} is ${typeOf(input)}; export the model for float32 images (model.float())`,
  );
};

const isNumber = (dim: unknown): dim is number => typeof dim === "number";

/** The side of the square images; refuses others, which no dataset gives. */
const sideOf = (path: string, [height, width]: readonly FileInput["dims"][number][], size: number | undefined) => {
  if (isNumber(height) && isNumber(width) && height !== width)
    throw new RequestError(
      `${path} takes images of ${height}×${width} and only square ones are given; export it for square images`,
    );
  const fixed = [height, width].find(isNumber);
  if (fixed !== undefined && size !== undefined && size !== fixed)
    throw new RequestError(`${path} takes images of ${fixed}×${fixed} only; leave the size ${size} out`);
  return fixed ?? size;
};

/**
 * Finds the images among a file's inputs.
 * @throws RequestError where it takes no RGB images
 */
export const imageInputOf = (file: FileModel, path: string, request: InputRequest = {}): ImageInput => {
  const input = onlyInput(file, path);
  const dtype = dtypeOf(input, path);
  const { dims, name } = input;
  const last = dims[3] === 3 && dims[1] !== 3;
  const layout = request.layout ?? (last ? "nhwc" : "nchw");
  const channels = layout === "nchw" ? dims[1] : dims[3];
  const sides = layout === "nchw" ? dims.slice(2) : dims.slice(1, 3);
  if (isNumber(channels) && channels !== 3)
    throw new RequestError(
      `${path} takes images of ${channels} channel${channels === 1 ? "" : "s"} (${typeOf(input)}) and datasets give RGB; ` +
        (channels === 1
          ? "export it with the conversion inside (x.mean(1, keepdim=True) first), or say --layout"
          : "export it for 3 channels, or say --layout"),
    );
  const guesses: string[] = [];
  if (last && request.layout === undefined && dtype !== "uint8")
    guesses.push(`images are taken as NHWC (${typeOf(input)}); --layout nchw if they are not`);
  if (!isNumber(channels)) guesses.push(`the file leaves the channels open: 3, RGB`);
  const told = sides.every(isNumber) ? undefined : sizeToldBy(file.metadata);
  if (told !== undefined && dtype === "uint8" && request.size === undefined)
    guesses.push(
      `photographs are given at ${told}×${told}, its network's size, which its own resizing leaves as they are`,
    );
  const batch = isNumber(dims[0]) ? dims[0] : undefined;
  return { name, dtype, layout, size: sideOf(path, sides, request.size ?? told), batch, guesses };
};

/** Mean and deviation that a model expects of its images. */
export interface Normalisation {
  /** One number a channel or one for all; default none. */
  readonly mean?: readonly number[] | undefined;
  readonly std?: readonly number[] | undefined;
}

/** (x - mean)/std by channel, of images [B,3,H,W]. */
export const normalised = (x: Value, { mean, std }: Normalisation): Value => {
  if ((mean ?? []).length === 0 && (std ?? []).length === 0) return x;
  const given = (name: string, values: readonly number[] | undefined, otherwise: number): Value => {
    const list = (values ?? []).length === 0 ? [otherwise] : (values as readonly number[]);
    if (list.length !== 1 && list.length !== 3)
      throw new RequestError(`--${name} has ${list.length} numbers but the images have 3 channels; give 1 or 3`);
    return constant(float32([1, list.length, 1, 1], list));
  };
  if ((std ?? []).some((s) => !(s > 0))) throw new RequestError("--std must be above 0");
  return div(sub(x, given("mean", mean, 0)), given("std", std, 1));
};

/** Pixels as bytes in float32, as the model gets them; their gradient passes through the rounding. */
const bytesOf = (x: Value): Value => {
  const scaled = mul(x, 255);
  return add(scaled, stopGradient(sub(round(scaled), scaled)));
};

/** Images [B,3,H,W] as the model takes them. Bytes stay float32: see `floatingInput`. */
export const fedImages = (x: Value, { dtype, layout }: ImageInput): Value => {
  const ordered = layout === "nhwc" ? transpose(x, { perm: [0, 2, 3, 1] }) : x;
  if (dtype === "float16") return cast(ordered, { to: "float16" });
  return dtype === "uint8" ? bytesOf(ordered) : ordered;
};

/** The file with its bytes declared as float32, so that a gradient reaches them; each Cast to float then changes nothing. */
export const floatingInput = (file: FileModel): FileModel => ({
  ...withoutRounding(file),
  inputs: file.inputs.map((input) => (input.dtype === "uint8" ? { ...input, dtype: "float32" as const } : input)),
});
