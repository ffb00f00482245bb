import type { Random } from "./random.ts";
import type { Box } from "./resize.ts";

/** How torchvision's `round` (Python's) takes ties: to the even neighbour. */
const roundEven = (x: number): number => {
  const rounded = Math.round(x);
  return Math.abs(x % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
};

/**
 * The box of torchvision's RandomResizedCrop: up to ten tries of an area and an aspect ratio (uniform in its logarithm),
 * then the largest centred box whose ratio is allowed.
 * @param scale range of the box's share of the image's area
 * @param ratio range of width / height
 */
export const sampleResizedCrop = (
  r: Random,
  height: number,
  width: number,
  scale: readonly [number, number],
  ratio: readonly [number, number] = [3 / 4, 4 / 3],
): Box => {
  const area = height * width;
  const low = Math.log(ratio[0]);
  const high = Math.log(ratio[1]);
  for (let attempt = 0; attempt < 10; attempt++) {
    const target = area * (scale[0] + (scale[1] - scale[0]) * r.uniform());
    const aspect = Math.exp(low + (high - low) * r.uniform());
    const w = roundEven(Math.sqrt(target * aspect));
    const h = roundEven(Math.sqrt(target / aspect));
    if (w > 0 && w <= width && h > 0 && h <= height)
      return { top: r.int(height - h + 1), left: r.int(width - w + 1), height: h, width: w };
  }
  let w = width;
  let h = height;
  if (width / height < ratio[0]) h = roundEven(width / ratio[0]);
  else if (width / height > ratio[1]) w = roundEven(height * ratio[1]);
  return { top: (height - h) >> 1, left: (width - w) >> 1, height: h, width: w };
};

/** Where a crop of the image's own size starts in the image padded on all sides: 0 to 2·padding each way. */
export const samplePaddedCrop = (r: Random, padding: number): { readonly top: number; readonly left: number } => ({
  top: r.int(2 * padding + 1),
  left: r.int(2 * padding + 1),
});

/**
 * Crops [3, height, width] out of the image padded with zeros, as torchvision's RandomCrop does with `padding`.
 * @param src [3, height, width]
 * @param out [3, height, width], not the same memory
 * @param top first row of the crop in the padded image
 * @param left first column
 */
export const paddedCrop = (
  src: Float32Array,
  height: number,
  width: number,
  padding: number,
  top: number,
  left: number,
  out: Float32Array,
): void => {
  const dy = top - padding;
  const dx = left - padding;
  const first = Math.max(0, -dx);
  const end = Math.min(width, width - dx);
  out.fill(0);
  for (let plane = 0; plane < 3; plane++)
    for (let y = Math.max(0, -dy); y < Math.min(height, height - dy); y++) {
      const row = (plane * height + y) * width;
      const from = row + dy * width + dx;
      for (let x = first; x < end; x++) out[row + x] = src[from + x]!;
    }
};

/** Mirrors [3, height, width] left to right, in place. */
export const flipHorizontal = (image: Float32Array, height: number, width: number): void => {
  for (let row = 0; row < 3 * height; row++) image.subarray(row * width, (row + 1) * width).reverse();
};

/**
 * Turns a square image [3, size, size] counter-clockwise by `turns`·90°, as torch.rot90.
 * @param out not the same memory as `src`
 */
export const rotate90 = (src: Float32Array, size: number, turns: number, out: Float32Array): void => {
  const k = ((turns % 4) + 4) % 4;
  const last = size - 1;
  for (let plane = 0; plane < 3; plane++) {
    const origin = plane * size * size;
    for (let y = 0; y < size; y++)
      for (let x = 0; x < size; x++) {
        const from =
          k === 0
            ? y * size + x
            : k === 1
              ? x * size + last - y
              : k === 2
                ? (last - y) * size + last - x
                : (last - x) * size + y;
        out[origin + y * size + x] = src[origin + from]!;
      }
  }
};
