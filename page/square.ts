/** How a photograph becomes a picture of the network's size. */

/** Weights of the bilinear filter from `side` to `size` pixels, widened where images shrink: first pixel and shares. */
const filterOf = (side: number, size: number): readonly { readonly first: number; readonly shares: number[] }[] => {
  const ratio = side / size;
  const stretch = Math.max(ratio, 1);
  return Array.from({ length: size }, (_, i) => {
    const centre = ratio * (i + 0.5);
    const first = Math.max(0, Math.ceil(centre - stretch - 0.5));
    const end = Math.min(side, Math.floor(centre + stretch - 0.5) + 1);
    const weights = Array.from({ length: end - first }, (_, j) =>
      Math.max(0, 1 - Math.abs(first + j + 0.5 - centre) / stretch),
    );
    const total = weights.reduce((sum, w) => sum + w, 0);
    return { first, shares: weights.map((w) => w / total) };
  });
};

/** The central square of RGBA rows as a picture of the network's size: as images of training are made (src/data/resize.ts). */
export const squarePicture = (rgba: ArrayLike<number>, height: number, width: number, size: number): Float32Array => {
  const side = Math.min(height, width);
  const start = 4 * (((height - side) >> 1) * width + ((width - side) >> 1));
  const filter = filterOf(side, size);
  const middle = new Float32Array(side * size);
  const bytes = new Uint8Array(3 * size * size);
  for (let plane = 0; plane < 3; plane++) {
    for (let y = 0; y < side; y++)
      filter.forEach(({ first, shares }, x) => {
        const from = start + 4 * (y * width + first) + plane;
        middle[y * size + x] = shares.reduce((sum, share, t) => sum + share * rgba[from + 4 * t]!, 0);
      });
    filter.forEach(({ first, shares }, y) => {
      for (let x = 0; x < size; x++) {
        const sum = shares.reduce((total, share, t) => total + share * middle[(first + t) * size + x]!, 0);
        bytes[(plane * size + y) * size + x] = Math.round(Math.fround(sum));
      }
    });
  }
  return Float32Array.from(bytes, (byte) => byte / 255);
};
