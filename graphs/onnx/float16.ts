/** IEEE 754 half precision as raw bits, which is how tensors of float16 are held. */

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** The nearest half, ties to even; overflow gives infinity. */
const toHalf = (value: number): number => {
  float[0] = value;
  const b = bits[0]!;
  const sign = (b >>> 16) & 0x8000;
  const magnitude = b & 0x7fffffff;
  if (magnitude >= 0x7f800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
    return sign | ((rounded - 0x38000000) >>> 13);
  }
  // Subnormal: a whole number of 2^-24.
  float[0] = magnitude === 0 ? 0 : Math.abs(value) * 2 ** 24;
  const whole = Math.floor(float[0]);
  const rest = float[0] - whole;
  return sign | (whole + (rest > 0.5 || (rest === 0.5 && whole % 2 === 1) ? 1 : 0));
};

const fromHalf = (half: number): number => {
  const exponent = (half >>> 10) & 0x1f;
  const fraction = half & 0x3ff;
  const sign = half & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
};

export const toFloat16 = (values: ArrayLike<number>): Uint16Array => {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) out[i] = toHalf(values[i]!);
  return out;
};

export const fromFloat16 = (halves: ArrayLike<number>): Float32Array => {
  const out = new Float32Array(halves.length);
  for (let i = 0; i < out.length; i++) out[i] = fromHalf(halves[i]!);
  return out;
};
