import type { JitterStrength } from "../../graphs/views/recipe.ts";
import type { Random } from "./random.ts";

/**
 * Colour transforms of planar images [3, pixels] in [0, 1], in place, as torchvision defines them for float tensors.
 */

export type { JitterStrength } from "../../graphs/views/recipe.ts";

// Bound once: under jest every look-up of a global is slow.
const { min, max, floor } = Math;

const clamp = (x: number): number => min(1, max(0, x));

const grey = (red: number, green: number, blue: number): number => 0.2989 * red + 0.587 * green + 0.114 * blue;

/** factor·image, clipped. */
export const adjustBrightness = (image: Float32Array, factor: number): void => {
  for (let i = 0; i < image.length; i++) image[i] = clamp(image[i]! * factor);
};

/** factor·image + (1 - factor)·(mean of the grey image), clipped. */
export const adjustContrast = (image: Float32Array, factor: number): void => {
  const n = image.length / 3;
  let sum = 0;
  for (let i = 0; i < n; i++) sum += grey(image[i]!, image[i + n]!, image[i + 2 * n]!);
  const rest = ((1 - factor) * sum) / n;
  for (let i = 0; i < image.length; i++) image[i] = clamp(image[i]! * factor + rest);
};

/** factor·image + (1 - factor)·(grey image), clipped. */
export const adjustSaturation = (image: Float32Array, factor: number): void => {
  const n = image.length / 3;
  for (let i = 0; i < n; i++) {
    const r = image[i]!;
    const g = image[i + n]!;
    const b = image[i + 2 * n]!;
    const rest = (1 - factor) * grey(r, g, b);
    image[i] = clamp(r * factor + rest);
    image[i + n] = clamp(g * factor + rest);
    image[i + 2 * n] = clamp(b * factor + rest);
  }
};

/** Turns the hue by `shift` of the colour circle, -0.5 to 0.5, keeping saturation and value (HSV). */
export const adjustHue = (image: Float32Array, shift: number): void => {
  const n = image.length / 3;
  for (let i = 0; i < n; i++) {
    const r = image[i]!;
    const g = image[i + n]!;
    const b = image[i + 2 * n]!;
    const value = max(r, g, b);
    const range = value - min(r, g, b);
    if (range === 0) continue;
    const sixth = value === r ? (g - b) / range : value === g ? 2 + (b - r) / range : 4 + (r - g) / range;
    let h = sixth / 6 + shift;
    h = (h - floor(h)) * 6;
    const sector = floor(h) % 6;
    const f = h - floor(h);
    const saturation = range / value;
    const p = clamp(value * (1 - saturation));
    const q = clamp(value * (1 - saturation * f));
    const t = clamp(value * (1 - saturation * (1 - f)));
    image[i] = sector === 0 || sector === 5 ? value : sector === 1 ? q : sector === 4 ? t : p;
    image[i + n] = sector === 1 || sector === 2 ? value : sector === 0 ? t : sector === 3 ? q : p;
    image[i + 2 * n] = sector === 3 || sector === 4 ? value : sector === 2 ? t : sector === 5 ? q : p;
  }
};

/** The grey image in all three planes. */
export const toGrey = (image: Float32Array): void => {
  const n = image.length / 3;
  for (let i = 0; i < n; i++) {
    const level = grey(image[i]!, image[i + n]!, image[i + 2 * n]!);
    image[i] = level;
    image[i + n] = level;
    image[i + 2 * n] = level;
  }
};

/** What one colour jitter does: four factors, and the order of the four adjustments by number. */
export interface Jitter {
  /** 0 brightness, 1 contrast, 2 saturation, 3 hue. */
  readonly order: ArrayLike<number>;
  readonly brightness: number;
  readonly contrast: number;
  readonly saturation: number;
  readonly hue: number;
}

/** Draws the numbers of torchvision's ColorJitter. */
export const sampleJitter = (r: Random, [brightness, contrast, saturation, hue]: JitterStrength): Jitter => {
  const factor = (strength: number): number => {
    const low = max(0, 1 - strength);
    return low + (1 + strength - low) * r.uniform();
  };
  return {
    order: r.permutation(4),
    brightness: factor(brightness),
    contrast: factor(contrast),
    saturation: factor(saturation),
    hue: hue * (2 * r.uniform() - 1),
  };
};

/** Applies a colour jitter in place. */
export const applyJitter = (image: Float32Array, jitter: Jitter): void => {
  for (let k = 0; k < 4; k++) {
    const which = jitter.order[k];
    if (which === 0) adjustBrightness(image, jitter.brightness);
    else if (which === 1) adjustContrast(image, jitter.contrast);
    else if (which === 2) adjustSaturation(image, jitter.saturation);
    else adjustHue(image, jitter.hue);
  }
};
