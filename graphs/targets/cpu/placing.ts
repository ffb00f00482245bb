/** Which values lie in blocks (blocked/layout.ts) and which by pixels (pixel.ts): those of few channels in blocks, up to a size of images. */
import { blockedLayout, sharing } from "./blocked/layout.ts";
import type { Place } from "./chunked.ts";
import { pixelLayout } from "./pixel.ts";

/** Channels of the rows of `Limits`: a value belongs to the first row that has as many as it. */
export const limitChannels = [16, 32, 64, 128, 256] as const;

/** For each of `limitChannels` the side of the largest images that lie in blocks: 0 for none, Infinity for all. */
export type Limits = readonly number[];

/**
 * Limits where none were timed, and those of an Intel Xeon with AVX-512, on which they were (`npx advcl bench --what layouts`): up to 32
 * channels Winograd's products are too thin, at 64 both are alike, and from 128 on blocks take up to twice as long.
 */
export const usualLimits: Limits = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, 16, 0, 0];

export const sameLimits = (a: Limits, b: Limits): boolean => a.join() === b.join();

const printLimit = (side: number): string => (side === Number.POSITIVE_INFINITY ? "all" : String(side));

/** The name of the target: `cpu-blocked16` with the usual limits, else with its own behind it, as in `cpu-blocked16-all-all-48-8-0`. */
export const blockedName = (block: number, limits: Limits = usualLimits): string =>
  [`cpu-blocked${block}`, ...(sameLimits(limits, usualLimits) ? [] : limits.map(printLimit))].join("-");

/** What such a name says; undefined of another name. */
export const readBlockedName = (name: string): { readonly block: number; readonly limits: Limits } | undefined => {
  const match = /^cpu-blocked([1-9]\d*)((?:-(?:all|\d+))*)$/.exec(name);
  if (match === null) return undefined;
  const sides = match[2]!.split("-").slice(1);
  const limits = sides.map((side) => (side === "all" ? Number.POSITIVE_INFINITY : Number(side)));
  if (limits.length !== 0 && limits.length !== limitChannels.length) return undefined;
  return { block: Number(match[1]), limits: limits.length === 0 ? usualLimits : limits };
};

/** Where a value lies on a processor with such blocks. */
export const placing =
  (block: number, limits: Limits = usualLimits): Place =>
  (type) => {
    const [, channels = 0, h = 0, w = 0] = type.shape;
    const limit = limits[limitChannels.findIndex((most) => channels <= most)] ?? 0;
    const within = channels >= 4 && h * w > 1 && Math.sqrt(h * w) <= limit;
    return within && sharing(block, type.shape) > 0 ? blockedLayout(block, type) : pixelLayout(type);
  };
