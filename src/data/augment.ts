/**
 * Transforms of float32 planar images [3, height, width] in [0, 1]. `sample…` draws a transform's numbers; the rest is
 * fixed by explicit numbers and agrees with torchvision.transforms.v2 on float tensors with antialias=True
 * (scripts/fixtures/augment.py).
 */
export {
  adjustBrightness,
  adjustContrast,
  adjustHue,
  adjustSaturation,
  applyJitter,
  type Jitter,
  type JitterStrength,
  sampleJitter,
  toGrey,
} from "./colour.ts";
export { flipHorizontal, paddedCrop, rotate90, samplePaddedCrop, sampleResizedCrop } from "./crop.ts";
export { type Box, type Interpolation, resizedCrop } from "./resize.ts";
