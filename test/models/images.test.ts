import { expect, test } from "@jest/globals";
import { imageAt, imageBatch, photoBatch, pixelsOf, planesOf } from "../../src/models/images.ts";

const images = {
  count: 2,
  height: 1,
  width: 2,
  images: Uint8Array.from([0, 51, 102, 153, 204, 255, 6, 5, 4, 3, 2, 1]),
};

test("bytes are pixels in [0, 1], and a batch is filled with the last image", () => {
  const first = Float32Array.of(0, 0.2, 0.4, 0.6, 0.8, 1);
  expect(imageAt(images, 0)).toEqual(first);
  const { shape, data } = imageBatch(images, 0, 3);
  expect(shape).toEqual([3, 3, 1, 2]);
  expect(data.subarray(0, 6)).toEqual(first);
  expect(data.subarray(12)).toEqual(data.subarray(6, 12));
  expect(data.subarray(12)).toEqual(pixelsOf(images.images.subarray(6)));
});

test("photographs have their channels last, and planes of them are the image again", () => {
  const { shape, data } = photoBatch(images, 1, 1);
  expect(shape).toEqual([1, 1, 2, 3]);
  expect([...data]).toEqual([6, 4, 2, 5, 3, 1]);
  expect([...planesOf(data)]).toEqual([...images.images.subarray(6)]);
});
