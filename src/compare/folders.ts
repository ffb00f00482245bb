/** Names of what lies in the folder of a comparison. */

/** A variant's name as a folder's. */
export const slug = (name: string): string => name.replaceAll("/", "_").replaceAll("=", "-");

/** The folder of a variant's encoder. */
export const encoderFolder = (variant: string, seed: number): string => `pretrain-${slug(variant)}-seed${seed}`;
