/** Uncompressed images that the decoder of the others lacks: Windows bitmaps, and the portable maps of GTSRB and others. */

/** Pixels row-major from the upper left. */
export interface Bitmap {
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3;
  readonly data: Uint8Array;
}

/** Bytes of the pixels of a bitmap that a file of `length` bytes can hold. */
const checkSize = (width: number, height: number): void => {
  if (!(Number.isInteger(width) && Number.isInteger(height) && width >= 1 && height >= 1 && width * height <= 2 ** 28))
    throw new Error(`its size is ${width}×${height}`);
};

/** Colours of a bitmap with a palette: blue, green, red and an unused byte each. */
const indexed = (row: Uint8Array, bits: number, x: number): number => {
  const at = x * bits;
  return (row[at >> 3]! >> (8 - bits - (at & 7))) & ((1 << bits) - 1);
};

/**
 * Decodes a Windows bitmap: 1, 4 or 8 bits with a palette, 24 or 32 bits, not compressed.
 * @throws Error that says what is wrong with it or not read
 */
export const decodeBmp = (bytes: Uint8Array): Bitmap => {
  if (bytes.length < 54) throw new Error("it is cut short");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const [begin, headerBytes] = [view.getUint32(10, true), view.getUint32(14, true)];
  if (headerBytes < 40) throw new Error(`its header of ${headerBytes} bytes is not read; save it as PNG`);
  const [width, lines] = [view.getInt32(18, true), view.getInt32(22, true)];
  const [bits, compression, colours] = [view.getUint16(28, true), view.getUint32(30, true), view.getUint32(46, true)];
  // 3 is given masks, which for 32 bits are nearly always those of 0.
  if (![1, 4, 8, 24, 32].includes(bits) || !(compression === 0 || (compression === 3 && bits === 32)))
    throw new Error(`${bits} bits under compression ${compression} are not read; save it as PNG`);
  const height = Math.abs(lines);
  checkSize(width, height);
  const rowBytes = Math.ceil((width * bits) / 32) * 4;
  if (begin + rowBytes * height > bytes.length) throw new Error("it is cut short");
  const paletteAt = 14 + headerBytes;
  const size = bits <= 8 ? colours || 2 ** bits : 0;
  if (size > 256 || paletteAt + 4 * size > bytes.length) throw new Error("its palette is cut short");
  const data = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y++) {
    const from = begin + rowBytes * (lines > 0 ? height - 1 - y : y);
    const row = bytes.subarray(from, from + rowBytes);
    for (let x = 0; x < width; x++) {
      const at = bits > 8 ? from + (x * bits) / 8 : paletteAt + 4 * indexed(row, bits, x);
      if (bits <= 8 && at >= paletteAt + 4 * size) throw new Error("it has a colour beyond its palette");
      for (let c = 0; c < 3; c++) data[3 * (y * width + x) + c] = bytes[at + 2 - c]!;
    }
  }
  return { width, height, channels: 3, data };
};

/**
 * Decodes a portable graymap or pixmap in its binary form (P5, P6; netpbm.sourceforge.net/doc/ppm.html).
 * @throws Error that says what is wrong with it or not read
 */
export const decodePnm = (bytes: Uint8Array): Bitmap => {
  const head = Buffer.from(bytes.subarray(0, 512)).toString("latin1");
  const gap = String.raw`(?:\s|#[^\n]*\n)+`;
  const match = new RegExp(String.raw`^P([56])${gap}(\d+)${gap}(\d+)${gap}(\d+)\s`).exec(head);
  if (match === null) throw new Error("it is no binary PPM or PGM; save it as PNG");
  const [width, height, most] = [match[2], match[3], match[4]].map(Number) as [number, number, number];
  checkSize(width, height);
  if (!(most >= 1 && most <= 65_535)) throw new Error(`its largest value is ${most}`);
  const channels = match[1] === "5" ? 1 : 3;
  const wide = most > 255;
  const count = width * height * channels;
  const begin = match[0].length;
  if (begin + count * (wide ? 2 : 1) > bytes.length) throw new Error("it is cut short");
  const data = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const value = wide ? (bytes[begin + 2 * i]! << 8) | bytes[begin + 2 * i + 1]! : bytes[begin + i]!;
    data[i] = Math.round((255 * Math.min(value, most)) / most);
  }
  return { width, height, channels, data };
};
