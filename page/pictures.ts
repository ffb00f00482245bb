/** Pictures to canvases and back. */
import type { Picture } from "./classifier.ts";
import { squarePicture } from "./square.ts";

const paint = (canvas: HTMLCanvasElement, size: number, pixel: (plane: number, at: number) => number): void => {
  canvas.width = size;
  canvas.height = size;
  const context = canvas.getContext("2d") as CanvasRenderingContext2D;
  const image = context.createImageData(size, size);
  for (let at = 0; at < size * size; at++) {
    for (let plane = 0; plane < 3; plane++) image.data[at * 4 + plane] = Math.round(255 * pixel(plane, at));
    image.data[at * 4 + 3] = 255;
  }
  context.putImageData(image, 0, 0);
};

export const draw = (canvas: HTMLCanvasElement, picture: Picture, size: number): void =>
  paint(canvas, size, (plane, at) => picture[plane * size * size + at]!);

/** The difference of two pictures around mid-grey, `gain` times as strong. */
export const drawDifference = (
  canvas: HTMLCanvasElement,
  from: Picture,
  to: Picture,
  size: number,
  gain: number,
): void =>
  paint(canvas, size, (plane, at) => {
    const i = plane * size * size + at;
    return Math.max(0, Math.min(1, 0.5 + gain * (to[i]! - from[i]!)));
  });

/** Largest change of a pixel. */
export const distance = (a: Picture, b: Picture): number => {
  let largest = 0;
  for (let i = 0; i < a.length; i++) largest = Math.max(largest, Math.abs(a[i]! - b[i]!));
  return largest;
};

/** Interleaved RGB bytes, `stride` apart, as a picture. */
export const fromBytes = (bytes: ArrayLike<number>, start: number, size: number, stride: number): Picture => {
  const picture = new Float32Array(3 * size * size);
  for (let at = 0; at < size * size; at++)
    for (let plane = 0; plane < 3; plane++)
      picture[plane * size * size + at] = bytes[start + at * stride + plane]! / 255;
  return picture;
};

/** The middle square of an image file, at the network's size. */
export const fromFile = async (file: Blob, size: number): Promise<Picture> => {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return squarePicture(context.getImageData(0, 0, width, height).data, height, width, size);
};
