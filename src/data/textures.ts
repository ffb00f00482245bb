/** Generated images of ten textures, on which a few minutes of pretraining show what it is for. */
import { between, type Drawing, hue } from "./generated.ts";
import type { Random } from "./random.ts";

// Bound once: under jest every look-up of a global is slow.
const { min, max, floor, abs, hypot, cos, sin, round } = Math;

/** Height of a pattern over the plane, where 1 is a period; the first colour shows above zero. */
type Pattern = (u: number, v: number) => number;

/** A triangle wave of period 1 in [-1, 1]. */
const wave = (t: number): number => abs((((t % 1) + 1.5) % 1) - 0.5) * 4 - 1;

const LATTICE = 20;

/** Smooth noise: a lattice of random heights over the plane, blended. */
const noise = (r: Random): Pattern => {
  const lattice = new Float32Array(LATTICE * LATTICE);
  r.fillUniform(lattice, -1, 1);
  const place = (i: number): number => ((i % LATTICE) + LATTICE) % LATTICE;
  return (u, v) => {
    const [x, y] = [1.1 * u + 8, 1.1 * v + 8];
    const [i, j] = [floor(x), floor(y)];
    const [p, q] = [smooth(x - i), smooth(y - j)];
    const at = (dx: number, dy: number): number => lattice[place(j + dy) * LATTICE + place(i + dx)]!;
    const upper = at(0, 0) * (1 - p) + at(1, 0) * p;
    const lower = at(0, 1) * (1 - p) + at(1, 1) * p;
    return 1.5 * (upper * (1 - q) + lower * q);
  };
};

const smooth = (t: number): number => t * t * (3 - 2 * t);

const checker: Pattern = (u, v) => {
  const [a, b] = [wave(0.8 * u), wave(0.8 * v)];
  return (a * b > 0 ? 1 : -1) * min(abs(a), abs(b));
};

const patterns = {
  rows: () => (_, v) => wave(v),
  columns: () => (u) => wave(u),
  diagonal: () => (u, v) => wave(0.72 * (u + v)),
  checker: () => checker,
  dots: () => (u, v) => 0.55 - hypot(0.5 * wave(0.9 * u) + 0.5, 0.5 * wave(0.9 * v) + 0.5),
  grid: () => (u, v) => max(wave(0.8 * u), wave(0.8 * v)) - 0.35,
  rings: () => (u, v) => wave(hypot(u, v)),
  zigzag: () => (u, v) => wave(0.85 * v + 0.3 * wave(0.6 * u)),
  blobs: noise,
  plain: () => () => 1,
} satisfies Record<string, (r: Random) => Pattern>;

const kinds: readonly ((r: Random) => Pattern)[] = Object.values(patterns);
const classes = Object.keys(patterns);

/** Deviation of the grain, of the full range. */
const GRAIN = 0.02;

/**
 * Draws a texture over the whole image, so that every crop shows its class: in two opposite colours, near the hue of its
 * class, at a random scale, turn and place. What tells classes apart is large and soft (hue, pattern), and an attack of
 * 8/255 cannot undo it; a classifier may still lean on what is small and sharp.
 */
const draw = (r: Random, label: number, size: number, out: Uint8Array): void => {
  const h = 1 + label / classes.length + 0.04 * r.normal();
  const saturation = 0.7 * between(r, 0.7, 1.2);
  const light = between(r, 0.7, 0.95);
  const dark = max(0.05, light - 0.45 * between(r, 0.8, 1.2));
  const pair = [hue(h, saturation, light), hue(h + 0.5, saturation, dark)] as const;
  const [front, ground] = r.uniform() < 0.5 ? [pair[1], pair[0]] : pair;
  const period = 0.36 * between(r, 0.85, 1.2);
  const angle = between(r, -0.15, 0.15);
  const [c, s] = [cos(angle) / period, sin(angle) / period];
  // Rings have their centre near the image's; what repeats may begin anywhere.
  const centred = classes[label] === "rings";
  const [shiftU, shiftV] = [between(r, 0, 1), between(r, 0, 1)].map((x) => (centred ? 0.6 * x - 0.3 : x)) as [
    number,
    number,
  ];
  const origin = centred ? 0.5 : 0;
  const pattern = kinds[label]!(r);
  // Edges are as soft as a quarter of a period is wide.
  const edge = (size * period) / 8;
  const plane = size * size;
  for (let py = 0; py < size; py++)
    for (let px = 0; px < size; px++) {
      const [x, y] = [(px + 0.5) / size - origin, (py + 0.5) / size - origin];
      const cover = min(1, max(0, 0.5 + edge * pattern(x * c + y * s + shiftU, y * c - x * s + shiftV)));
      for (let p = 0; p < 3; p++) {
        const value = ground[p]! + (front[p]! - ground[p]!) * cover + GRAIN * r.normal();
        out[p * plane + py * size + px] = round(255 * min(1, max(0, value)));
      }
    }
};

/** Ten textures. */
export const textures: Drawing = { name: "textures", classes, draw };
