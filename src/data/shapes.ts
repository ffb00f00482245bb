/** Generated images of ten shapes in various places, sizes and colours, for trials and tests. */
import { between, type Colour, type Drawing, hue } from "./generated.ts";
import type { Random } from "./random.ts";

// Bound once: under jest every look-up of a global is slow.
const { min, max, floor, abs, hypot, cos, sin, round } = Math;

/** Signed distance of a point to a shape that fills about [-1, 1]²: negative inside. */
type Distance = (x: number, y: number) => number;

interface Shape {
  readonly distance: Distance;
  /** Where the second colour shows inside the shape, as a signed distance too; undefined for a plain shape. */
  readonly ink?: Distance;
  /** How far it may be turned either way, in radians. */
  readonly turn: number;
}

const disc: Distance = (x, y) => hypot(x, y) - 0.9;
const box: Distance = (x, y) => max(abs(x), abs(y)) - 0.8;

/** Distance to a polygon given by its corners (Quilez, https://iquilezles.org/articles/distfunctions2d/). */
const polygon = (corners: readonly (readonly [number, number])[]): Distance => {
  return (x, y) => {
    let nearest = Infinity;
    let sign = 1;
    for (let i = 0, j = corners.length - 1; i < corners.length; j = i++) {
      const [ax, ay] = corners[i]!;
      const [bx, by] = corners[j]!;
      const ex = bx - ax;
      const ey = by - ay;
      const t = min(1, max(0, ((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)));
      nearest = min(nearest, hypot(x - ax - t * ex, y - ay - t * ey));
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) sign = -sign;
    }
    return sign * nearest;
  };
};

const around = (n: number, radius: (i: number) => number): [number, number][] =>
  Array.from({ length: n }, (_, i) => {
    const angle = (2 * Math.PI * i) / n - Math.PI / 2;
    return [radius(i) * cos(angle), radius(i) * sin(angle)];
  });

const wave = (x: number, period: number): number => abs(((((x / period) % 1) + 1.5) % 1) - 0.5) * period - period / 4;

const shapeTable = {
  circle: { distance: disc, turn: 0 },
  square: { distance: box, turn: 0.35 },
  triangle: { distance: polygon(around(3, () => 1.05)), turn: 0.5 },
  cross: {
    distance: (x, y) => min(max(abs(x) - 0.95, abs(y) - 0.3), max(abs(x) - 0.3, abs(y) - 0.95)),
    turn: 0.35,
  },
  ring: { distance: (x, y) => abs(hypot(x, y) - 0.7) - 0.2, turn: 0 },
  star: { distance: polygon(around(10, (i) => (i % 2 === 0 ? 1.1 : 0.45))), turn: 0.6 },
  stripes: { distance: box, ink: (x) => wave(x, 0.53), turn: Math.PI / 2 },
  checker: {
    distance: box,
    ink: (x, y) => (wave(x, 1.07) * wave(y, 1.07) > 0 ? 1 : -1) * min(abs(wave(x, 1.07)), abs(wave(y, 1.07))),
    turn: 0.35,
  },
  crescent: { distance: (x, y) => max(disc(x, y), 0.75 - hypot(x - 0.45, y)), turn: 0.6 },
  hourglass: {
    distance: polygon([
      [-0.8, -0.95],
      [0.8, -0.95],
      [0.08, 0],
      [0.8, 0.95],
      [-0.8, 0.95],
      [-0.08, 0],
    ]),
    turn: 0.5,
  },
} satisfies Record<string, Shape>;

const kinds: readonly Shape[] = Object.values(shapeTable);
const classes = Object.keys(shapeTable);

const anyColour = (r: Random): Colour => hue(r.uniform(), between(r, 0.1, 0.9), between(r, 0.15, 0.95));

/** A colour that can be told from all of `others`, drawn by `make`. */
const contrasting = (r: Random, others: readonly Colour[], make = anyColour): Colour => {
  for (;;) {
    const colour = make(r);
    if (others.every((o) => hypot(colour[0] - o[0], colour[1] - o[1], colour[2] - o[2]) > 0.45)) return colour;
  }
};

/** A colour of a class: near its own hue, as things have theirs. */
const classColour =
  (label: number) =>
  (r: Random): Colour =>
    hue((1 + label / kinds.length + 0.05 * r.normal()) % 1, between(r, 0.5, 0.95), between(r, 0.35, 0.95));

const ground: Colour = [0.5, 0.5, 0.5];
/** How far the mottle of the ground goes either way. */
const MOTTLE = 0.3;

/** Smooth noise of about [-1, 1] from an 8×8 lattice over the image. */
const texture = (r: Random): Distance => {
  const lattice = new Float32Array(81);
  r.fillUniform(lattice, -1, 1);
  return (x, y) => {
    const cx = min(7, floor(x * 8));
    const cy = min(7, floor(y * 8));
    const u = x * 8 - cx;
    const v = y * 8 - cy;
    const su = u * u * (3 - 2 * u);
    const sv = v * v * (3 - 2 * v);
    const at = (dx: number, dy: number): number => lattice[(cy + dy) * 9 + cx + dx]!;
    return (at(0, 0) * (1 - su) + at(1, 0) * su) * (1 - sv) + (at(0, 1) * (1 - su) + at(1, 1) * su) * sv;
  };
};

/**
 * Draws one image [3, size, size] of class `label`: four copies of its shape on a mottled ground. What tells an image from
 * others in every crop of it is then its class; a ground with colours of its own would teach the ground instead.
 */
const draw = (r: Random, label: number, size: number, out: Uint8Array): void => {
  const shape = kinds[label]!;
  const mottle = [texture(r), texture(r), texture(r)] as const;
  const grain = between(r, 0.005, 0.03);
  const copies = [0, 1, 2, 3].map((quarter) => {
    const body = contrasting(r, [ground], classColour(label));
    const ink = contrasting(r, [ground, body]);
    const angle = between(r, -shape.turn, shape.turn);
    const radius = between(r, 0.1, 0.25);
    const cx = 0.25 + 0.5 * (quarter % 2) + between(r, -0.1, 0.1);
    const cy = 0.25 + 0.5 * (quarter >> 1) + between(r, -0.1, 0.1);
    // Edges are one pixel soft: `edge` is how many pixels one unit of the shape has.
    return { body, ink, cx, cy, edge: radius * size, c: cos(angle) / radius, s: sin(angle) / radius };
  });
  const plane = size * size;
  const pixel = [0, 0, 0];
  for (let py = 0; py < size; py++)
    for (let px = 0; px < size; px++) {
      const x = (px + 0.5) / size;
      const y = (py + 0.5) / size;
      for (let p = 0; p < 3; p++) pixel[p] = ground[p]! + MOTTLE * mottle[p]!(x, y);
      for (const { body, ink, cx, cy, edge, c, s } of copies) {
        const u = (x - cx) * c + (y - cy) * s;
        const v = (y - cy) * c - (x - cx) * s;
        const cover = min(1, max(0, 0.5 - shape.distance(u, v) * edge));
        if (cover === 0) continue;
        const mark = shape.ink === undefined ? 0 : min(1, max(0, 0.5 - shape.ink(u, v) * edge));
        for (let p = 0; p < 3; p++) {
          const front = body[p]! + (ink[p]! - body[p]!) * mark;
          pixel[p] = pixel[p]! + (front - pixel[p]!) * cover;
        }
      }
      for (let p = 0; p < 3; p++)
        out[p * plane + py * size + px] = round(255 * min(1, max(0, pixel[p]! + grain * r.normal())));
    }
};

/** Ten shapes. */
export const shapes: Drawing = { name: "shapes", classes, draw };
