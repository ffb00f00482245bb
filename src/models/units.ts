/** Numbers in units of 0 to 255 where pixels lie in [0, 1]. */

const of255 = (value: number): string => (value / 255).toFixed(4).replace(/0+$/, "");

/** Warns of a radius that lets an attack turn any image into any other. */
export const warnOfRadius = (eps: number, norm: "linf" | "l2", warn: (message: string) => void): void => {
  if (norm === "linf" ? eps >= 1 : eps >= 32)
    warn(
      `eps is ${eps} and pixels lie in [0, 1]: any image is within that of any other; did you mean --eps ${eps}/255 (${of255(eps)})?`,
    );
};

/** Warns of a mean or deviation that pixels in [0, 1] can't have. */
export const warnOfNormalisation = (
  {
    mean = [],
    std = [],
  }: { readonly mean?: readonly number[] | undefined; readonly std?: readonly number[] | undefined },
  warn: (message: string) => void,
): void => {
  for (const [name, values] of Object.entries({ mean, std }))
    if (values.some((value) => Math.abs(value) > 1))
      warn(
        `--${name} ${values.join(",")} is of pixels from 0 to 255, and they lie in [0, 1]; did you mean --${name} ${values.map(of255).join(",")}?`,
      );
};
