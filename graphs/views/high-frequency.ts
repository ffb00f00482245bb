import { constant, named, type Value } from "../onnx/graph.ts";
import { type Tensor, tensor } from "../onnx/tensor.ts";
import { add, matMul, mul, sub } from "../ops/index.ts";

/**
 * The high-frequency component of square images (AdvCL section 4.1; Wang et al. 2020): every Fourier component nearer than
 * `radius` to the centre of the shifted spectrum (pixel H/2, W/2) is removed. The result is real and not clipped.
 *
 * Only the few removed frequencies are computed: with F = C - iS the rows of the DFT that the disc touches and M the
 * disc's mask, low = Re(F* (M ∘ (F x Fᵀ)) F̄) / S², written out in cosines and sines; high = x - low. x [N,C,S,S].
 */
export const highFrequency = (x: Value, radius: number): Value =>
  named("high_frequency", () => {
    const size = x.dim(-1);
    // Place i of the shifted spectrum holds frequency i - ⌊S/2⌋ and lies i - S/2 from the centre.
    const removed = Array.from({ length: size }, (_, i) => i).filter((i) => Math.abs(i - size / 2) < radius);
    if (removed.length === 0) return x;
    const table = (f: (angle: number) => number): Tensor =>
      tensor(
        "float32",
        [removed.length, size],
        Float32Array.from({ length: removed.length * size }, (_, i) => {
          // Whole turns are taken off in integers, where they are exact.
          const frequency = removed[Math.floor(i / size)]! - Math.floor(size / 2);
          const turns = (frequency * (i % size)) % size;
          return f((2 * Math.PI * turns) / size);
        }),
      );
    const [cos, sin] = [table(Math.cos), table(Math.sin)];
    const mask = Float32Array.from({ length: removed.length ** 2 }, (_, i) => {
      const row = removed[Math.floor(i / removed.length)]! - size / 2;
      const column = removed[i % removed.length]! - size / 2;
      return Math.hypot(row, column) < radius ? 1 / size ** 2 : 0;
    });
    const [c, s, ct, st] = [cos, sin, transposed(cos), transposed(sin)].map(constant) as [Value, Value, Value, Value];
    const disc = constant(tensor("float32", [removed.length, removed.length], mask));
    const low = (image: Value): Value => {
      const [xc, xs] = [matMul(image, ct), matMul(image, st)];
      const real = mul(sub(matMul(c, xc), matMul(s, xs)), disc);
      const imaginary = mul(add(matMul(s, xc), matMul(c, xs)), disc);
      const byCos = matMul(add(matMul(ct, real), matMul(st, imaginary)), c);
      const bySin = matMul(sub(matMul(ct, imaginary), matMul(st, real)), s);
      return add(byCos, bySin);
    };
    const high = sub(x, low(x));
    // A projection: what rounding left of the low frequencies goes in a second pass, and the small result keeps its digits.
    return sub(high, low(high));
  });

const transposed = ({ shape: [rows = 0, columns = 0], data }: Tensor): Tensor =>
  tensor(
    "float32",
    [columns, rows],
    Float32Array.from({ length: rows * columns }, (_, i) => Number(data[(i % rows) * columns + Math.floor(i / rows)])),
  );
