/** The ball of allowed perturbations in host memory, one image at a time: the same as graphs/attacks/threat-model.ts. */
import type { Norm } from "../../../graphs/attacks/threat-model.ts";
import type { Random } from "../../data/random.ts";

export interface Ball {
  readonly norm: Norm;
  readonly eps: number;
  /** Length of x - clean. */
  distance(x: Float32Array, clean: Float32Array): number;
  /** x + size · (steepest direction of the gradient), in a new array and not yet projected. */
  step(x: Float32Array, gradient: Float32Array, size: number): Float32Array;
  /** Moves x into the ball around clean, then into the box [0, 1], in place. */
  project(x: Float32Array, clean: Float32Array): Float32Array;
  /** A start on the surface of the ball, clipped to the box. */
  startOnSurface(clean: Float32Array, random: Random): Float32Array;
  /** A start drawn evenly from the ball, clipped to the box. */
  startInside(clean: Float32Array, random: Random): Float32Array;
}

const clipped = (v: number): number => Math.min(Math.max(v, 0), 1);
/** Keeps a division by a length of 0 finite. */
const TINY = 1e-12;

const at = (values: Float32Array, i: number): number => values[i]!;

const linfBall = (eps: number): Ball => ({
  norm: "linf",
  eps,
  distance: (x, clean) => {
    let most = 0;
    for (let i = 0; i < x.length; i++) most = Math.max(most, Math.abs(at(x, i) - at(clean, i)));
    return most;
  },
  step: (x, gradient, size) => {
    const out = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) {
      const g = at(gradient, i);
      out[i] = at(x, i) + (g > 0 ? size : g < 0 ? -size : 0);
    }
    return out;
  },
  project: (x, clean) => {
    for (let i = 0; i < x.length; i++) {
      const c = at(clean, i);
      x[i] = Math.min(Math.max(at(x, i), c - eps, 0), c + eps, 1);
    }
    return x;
  },
  startOnSurface: (clean, random) => {
    const noise = new Float32Array(clean.length);
    random.fillUniform(noise, -1, 1);
    let most = TINY;
    for (const v of noise) most = Math.max(most, Math.abs(v));
    return noise.map((v, i) => clipped(at(clean, i) + (eps * v) / most));
  },
  startInside: (clean, random) => {
    const noise = new Float32Array(clean.length);
    random.fillUniform(noise, -eps, eps);
    return noise.map((v, i) => clipped(at(clean, i) + v));
  },
});

const lengthOf = (x: Float32Array, from?: Float32Array): number => {
  let squares = 0;
  for (let i = 0; i < x.length; i++) squares += (at(x, i) - (from === undefined ? 0 : at(from, i))) ** 2;
  return Math.sqrt(squares);
};

const l2Ball = (eps: number): Ball => {
  const gaussian = (clean: Float32Array, random: Random): Float32Array => {
    const noise = new Float32Array(clean.length);
    random.fillNormal(noise, 1);
    return noise;
  };
  const start = (clean: Float32Array, noise: Float32Array, radius: number): Float32Array => {
    const scale = radius / Math.max(lengthOf(noise), TINY);
    return noise.map((v, i) => clipped(at(clean, i) + scale * v));
  };
  return {
    norm: "l2",
    eps,
    distance: lengthOf,
    step: (x, gradient, size) => {
      const scale = size / Math.max(lengthOf(gradient), TINY);
      return x.map((v, i) => v + scale * at(gradient, i));
    },
    project: (x, clean) => {
      const length = lengthOf(x, clean);
      const scale = length > eps ? eps / length : 1;
      for (let i = 0; i < x.length; i++) x[i] = clipped(at(clean, i) + scale * (at(x, i) - at(clean, i)));
      return x;
    },
    startOnSurface: (clean, random) => start(clean, gaussian(clean, random), eps),
    startInside: (clean, random) => {
      const noise = gaussian(clean, random);
      return start(clean, noise, eps * random.uniform() ** (1 / clean.length));
    },
  };
};

export const ball = (norm: Norm, eps: number): Ball => (norm === "linf" ? linfBall(eps) : l2Ball(eps));

/** A radius as papers write it: of L-inf in 255ths of a pixel's range. */
export const printRadius = (norm: Norm, eps: number): string =>
  norm === "linf" ? `${Number((255 * eps).toFixed(2))}/255` : String(Number(eps.toFixed(4)));
