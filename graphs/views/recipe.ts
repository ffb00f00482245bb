/**
 * What the inputs of a step are made from, as plain data: views of an image, noise, numbers. src/data draws them.
 */
export type Interpolation = "bilinear" | "bicubic";

/** Half-widths of brightness, contrast, saturation (around 1) and hue (around 0), as of torchvision's ColorJitter. */
export type JitterStrength = readonly [brightness: number, contrast: number, saturation: number, hue: number];

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

/** What an input of a step is made from. */
export type InputRecipe =
  | ViewRecipe
  /** int32 [B]: the class. */
  | { readonly kind: "label" }
  /** int32 [B]: the cluster among k. */
  | { readonly kind: "pseudo-label"; readonly k: number }
  /** int32 [B]: the place in the official dataset. */
  | { readonly kind: "index" }
  /** int32 [B]: a number from 0 to below `below`, drawn anew for each image in each epoch. */
  | { readonly kind: "random"; readonly below: number };

/** Inputs by name. A view's name is part of its random key: two names give two different views of an image. */
export type InputRecipes = Readonly<Record<string, InputRecipe>>;

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
