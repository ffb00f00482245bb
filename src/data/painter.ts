import { random, streamNumber } from "./random.ts";
import { createView, type ViewRecipe } from "./view.ts";

/** What is needed of a dataset to make views of its images. */
export interface Canvas {
  /** [count, 3, height, width] planar RGB. */
  readonly images: Uint8Array;
  /** [count] place in the official dataset, by which random numbers are keyed. */
  readonly index: Int32Array;
  readonly height: number;
  readonly width: number;
}

/** The views of a batch by name; the name is part of the random key. */
export type NamedRecipes = readonly (readonly [name: string, recipe: ViewRecipe])[];

/**
 * Makes rows `begin` to `end` of a batch.
 * @param positions which image of the dataset stands in each row
 * @param outs [rows, 3, height, width] for each view, in the order of the recipes
 */
export type Painter = (
  epoch: number,
  positions: Int32Array,
  begin: number,
  end: number,
  outs: readonly Float32Array[],
) => void;

/** Makes views with random numbers keyed by (seed, epoch, the image's index, the view's name) and nothing else. */
export const createPainter = (
  { images, index, height, width }: Canvas,
  recipes: NamedRecipes,
  seed: number,
): Painter => {
  const length = 3 * height * width;
  const views = recipes.map(([name, recipe]) => ({
    stream: streamNumber(name),
    view: createView(recipe, height, width),
  }));
  return (epoch, positions, begin, end, outs) => {
    for (let row = begin; row < end; row++) {
      const p = positions[row]!;
      const image = images.subarray(p * length, (p + 1) * length);
      for (const [v, { stream, view }] of views.entries())
        view(image, random(seed, epoch, index[p]!, stream), outs[v]!.subarray(row * length, (row + 1) * length));
    }
  };
};
