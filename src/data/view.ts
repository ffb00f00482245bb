import { z } from "zod";
import { RequestError } from "../errors.ts";
import { applyJitter, type JitterStrength, sampleJitter, toGrey } from "./colour.ts";
import { flipHorizontal, paddedCrop, samplePaddedCrop, sampleResizedCrop } from "./crop.ts";
import type { Random } from "./random.ts";
import { type Interpolation, resizedCrop } from "./resize.ts";

/** The contrastive augmentation: random resized crop, flip, colour jitter, greyscale, in this order. */
export interface SimclrRecipe {
  readonly kind: "simclr";
  /** Range of the crop's share of the image's area. */
  readonly cropScale: readonly [number, number];
  readonly jitter: JitterStrength;
  readonly jitterProbability: number;
  /** Probability of greyscale. */
  readonly grey: number;
  readonly interpolation: Interpolation;
  /** Whether to mirror half of the images. */
  readonly flip: boolean;
}

/** A crop of the image's own size after padding with zeros, and a flip. */
export interface CropRecipe {
  readonly kind: "crop";
  readonly padding: number;
  readonly flip: boolean;
}

/** The image as it is. */
export interface PlainRecipe {
  readonly kind: "none";
}

/** Uniform noise in [low, high) of the image's shape, in place of the image. */
export interface UniformNoiseRecipe {
  readonly kind: "noise-uniform";
  readonly low: number;
  readonly high: number;
}

/** Normal noise of mean 0 of the image's shape, in place of the image. */
export interface NormalNoiseRecipe {
  readonly kind: "noise-normal";
  readonly std: number;
}

/** What to make of an image, as plain JSON data. */
export type ViewRecipe = SimclrRecipe | CropRecipe | PlainRecipe | UniformNoiseRecipe | NormalNoiseRecipe;

const share = z.number().min(0).max(1);
const strength = z.number().min(0);

/** Checks a recipe read from a file. */
export const viewRecipeSchema: z.ZodType<ViewRecipe> = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("simclr"),
    cropScale: z
      .tuple([z.number().positive().max(1), z.number().positive().max(1)])
      .refine(([low, high]) => low <= high, "the range must go from low to high")
      .readonly(),
    jitter: z.tuple([strength, strength, strength, z.number().min(0).max(0.5)]).readonly(),
    jitterProbability: share,
    grey: share,
    interpolation: z.enum(["bilinear", "bicubic"]),
    flip: z.boolean(),
  }),
  z.strictObject({ kind: z.literal("crop"), padding: z.int().min(0), flip: z.boolean() }),
  z.strictObject({ kind: z.literal("none") }),
  z
    .strictObject({ kind: z.literal("noise-uniform"), low: z.number(), high: z.number() })
    .refine(({ low, high }) => low <= high, "low must not exceed high"),
  z.strictObject({ kind: z.literal("noise-normal"), std: strength }),
]);

/** Checks the recipe of view `name`; throws a RequestError that names the field. */
export const checkRecipe = (name: string, recipe: unknown): ViewRecipe => {
  const result = viewRecipeSchema.safeParse(recipe);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new RequestError(`view ${[name, ...issue.path].join(".")}: ${issue.message}; correct the recipe.`);
};

/** view1 and view2 of AdvCL (its code's TransformContrastive). */
export const advclView: SimclrRecipe = {
  kind: "simclr",
  cropScale: [0.2, 1],
  jitter: [0.4, 0.4, 0.4, 0.1],
  jitterProbability: 0.8,
  grey: 0.2,
  interpolation: "bilinear",
  flip: true,
};

/** The views of SimCLR and ACL: as AdvCL's, but crops from a tenth of the area, bicubic. */
export const aclView: SimclrRecipe = { ...advclView, cropScale: [0.1, 1], interpolation: "bicubic" };

/** ACL's view weakened by `strength` from 1 (the same) to 0 (the image, sometimes mirrored), as DynACL anneals it. */
export const dynaclView = (strength: number): SimclrRecipe => {
  if (!(strength >= 0 && strength <= 1)) throw new RangeError(`strength ${strength} is not in [0, 1]`);
  return {
    ...aclView,
    cropScale: [1 - 0.9 * strength, 1],
    jitter: [0.4 * strength, 0.4 * strength, 0.4 * strength, 0.1 * strength],
    jitterProbability: 0.8 * strength,
    grey: 0.2 * strength,
  };
};

/** Crop with padding 4 and flip: AdvCL's clean image, DeACL's view, and what finetuning sees. */
export const weakView: CropRecipe = { kind: "crop", padding: 4, flip: true };

/** The image itself: evaluation, features for clustering. */
export const plainView: PlainRecipe = { kind: "none" };

/** The start of an L-infinity attack: uniform in [-eps, eps]. */
export const uniformStart = (eps: number): UniformNoiseRecipe => ({ kind: "noise-uniform", low: -eps, high: eps });

/** The start of TRADES: normal noise, 0.001 in its paper. */
export const normalStart = (std = 0.001): NormalNoiseRecipe => ({ kind: "noise-normal", std });

/** Makes a view of `image` [3, height, width] bytes with the numbers of `r`, into `out` of the same shape. */
export type View = (image: Uint8Array, r: Random, out: Float32Array) => void;

const levels = Float32Array.from({ length: 256 }, (_, byte) => byte / 255);

const decode = (image: Uint8Array, out: Float32Array): void => {
  for (let i = 0; i < out.length; i++) out[i] = levels[image[i]!]!;
};

const simclr = (recipe: SimclrRecipe, height: number, width: number): View => {
  const source = new Float32Array(3 * height * width);
  return (image, r, out) => {
    decode(image, source);
    const box = sampleResizedCrop(r, height, width, recipe.cropScale);
    resizedCrop(source, height, width, box, out, height, width, recipe.interpolation);
    if (recipe.flip && r.uniform() < 0.5) flipHorizontal(out, height, width);
    if (r.uniform() < recipe.jitterProbability) applyJitter(out, sampleJitter(r, recipe.jitter));
    if (r.uniform() < recipe.grey) toGrey(out);
  };
};

const crop = ({ padding, flip }: CropRecipe, height: number, width: number): View => {
  const source = new Float32Array(3 * height * width);
  return (image, r, out) => {
    decode(image, source);
    const { top, left } = samplePaddedCrop(r, padding);
    paddedCrop(source, height, width, padding, top, left, out);
    if (flip && r.uniform() < 0.5) flipHorizontal(out, height, width);
  };
};

/** The view that a recipe describes, for images of one size; it keeps buffers, so it serves one thread. */
export const createView = (recipe: ViewRecipe, height: number, width: number): View => {
  switch (recipe.kind) {
    case "simclr":
      return simclr(recipe, height, width);
    case "crop":
      return crop(recipe, height, width);
    case "none":
      return (image, _, out) => decode(image, out);
    case "noise-uniform":
      return (_, r, out) => r.fillUniform(out, recipe.low, recipe.high);
    case "noise-normal":
      return (_, r, out) => r.fillNormal(out, recipe.std);
  }
};
