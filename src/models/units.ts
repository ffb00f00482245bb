/** Numbers in units of 0 to 255 where pixels lie in [0, 1]. */
import { kebabCase } from "../settings/name.ts";

const of255 = (value: number): string => (value / 255).toFixed(4).replace(/0+$/, "");

type Warn = (message: string) => void;

/** From here on a distance lets an attack turn any image into any other, or nearly. */
const largest = { linf: 1, l2: 32 } as const;

/** Settings that units can be wrong in, as verbs have them. */
export interface Measured {
  readonly eps?: unknown;
  readonly stepSize?: unknown;
  /** Of the ball (default linf). */
  readonly norm?: unknown;
  readonly mean?: unknown;
  readonly std?: unknown;
}

const warnOfDistance = (name: string, value: number, norm: keyof typeof largest, warn: Warn): void => {
  if (value < largest[norm]) return;
  const flag = kebabCase(name);
  const what = name === "eps" ? "any image is within that of any other" : "one step leaves the box";
  warn(`${flag} is ${value} and pixels lie in [0, 1]: ${what}; did you mean --${flag} ${value}/255 (${of255(value)})?`);
};

const warnOfChannels = (name: string, values: readonly number[], warn: Warn): void => {
  if (values.some((value) => Math.abs(value) > 1))
    warn(
      `--${name} ${values.join(",")} is of pixels from 0 to 255, and they lie in [0, 1]; did you mean --${name} ${values.map(of255).join(",")}?`,
    );
};

const isNumbers = (value: unknown): value is readonly number[] =>
  Array.isArray(value) && value.every((item) => typeof item === "number");

/**
 * Warns of what is in units of 0 to 255: a radius or a step that spans all pixels, a mean or deviation that pixels in [0, 1]
 * can't have. Every verb's settings go through it.
 */
export const warnOfUnits = ({ eps, stepSize, norm, mean, std }: Measured, warn: Warn): void => {
  for (const [name, given] of Object.entries({ eps, stepSize })) {
    const values = typeof given === "number" ? [given] : isNumbers(given) ? given : [];
    if (values.length > 0) warnOfDistance(name, Math.max(...values), norm === "l2" ? "l2" : "linf", warn);
  }
  for (const [name, values] of Object.entries({ mean, std })) if (isNumbers(values)) warnOfChannels(name, values, warn);
};
