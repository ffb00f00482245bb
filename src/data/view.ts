import { z } from "zod";
import type { CropRecipe, SimclrRecipe, ViewRecipe } from "../../graphs/views/recipe.ts";
import { RequestError } from "../errors.ts";
import { applyJitter, sampleJitter, toGrey } from "./colour.ts";
import { flipHorizontal, paddedCrop, samplePaddedCrop, sampleResizedCrop } from "./crop.ts";
import type { Random } from "./random.ts";
import { resizedCrop } from "./resize.ts";

export {
  aclView,
  advclView,
  type CropRecipe,
  dynaclView,
  type NormalNoiseRecipe,
  normalStart,
  type PlainRecipe,
  plainView,
  type SimclrRecipe,
  type UniformNoiseRecipe,
  uniformStart,
  type ViewRecipe,
  weakView,
} from "../../graphs/views/recipe.ts";

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
