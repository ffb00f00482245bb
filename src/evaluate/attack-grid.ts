/** A picture of attacks: clean image, perturbation and adversarial image side by side, with what the model says of them. */
import { writeFileAtomic } from "../files/atomic.ts";

export interface GridCell {
  /** [C,H,W] pixels in [0, 1]. */
  readonly clean: Float32Array;
  readonly adversarial: Float32Array;
  readonly label: string;
  readonly prediction: string;
  /** The attack that broke it; undefined where none did. */
  readonly attack: string | undefined;
}

export interface GridOptions {
  readonly shape: readonly [channels: number, height: number, width: number];
  /** The perturbation that is drawn as black or white, of a pixel. */
  readonly range: number;
  readonly title: string;
}

const GAP = 6;
const CAPTION = 34;
const COLUMNS = 3;

const escaped = (text: string): string => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** Bytes RGB of an image, each pixel `times` wide and high. */
const painted = (x: Float32Array, [c, h, w]: GridOptions["shape"], times: number): Buffer => {
  const out = Buffer.alloc(h * w * times * times * 3);
  for (let row = 0; row < h * times; row++)
    for (let column = 0; column < w * times; column++)
      for (let k = 0; k < 3; k++) {
        const at = (Math.min(k, c - 1) * h + Math.floor(row / times)) * w + Math.floor(column / times);
        out[(row * w * times + column) * 3 + k] = Math.round(255 * Math.min(Math.max(x[at]!, 0), 1));
      }
  return out;
};

/** Writes the grid as PNG. */
export const writeAttackGrid = async (
  path: string,
  cells: readonly GridCell[],
  options: GridOptions,
): Promise<void> => {
  const { default: sharp } = await import("sharp");
  const { shape, range, title } = options;
  const times = Math.max(1, Math.round(96 / shape[2]));
  const [h, w] = [shape[1] * times, shape[2] * times];
  const cellWidth = 3 * w + 4 * GAP;
  const cellHeight = h + CAPTION + GAP;
  const columns = Math.min(COLUMNS, cells.length);
  const rows = Math.ceil(cells.length / columns);
  const head = 30;
  const [width, height] = [columns * cellWidth + GAP, rows * cellHeight + head];
  const texts: string[] = [`<text x="${GAP * 2}" y="20" font-size="14" font-weight="bold">${escaped(title)}</text>`];
  const pieces: { input: Buffer; raw: { width: number; height: number; channels: 3 }; left: number; top: number }[] =
    [];
  cells.forEach((cell, i) => {
    const left = (i % columns) * cellWidth + GAP * 2;
    const top = Math.floor(i / columns) * cellHeight + head;
    const moved = cell.adversarial.map((v, k) => 0.5 + (v - cell.clean[k]!) / (2 * range));
    [cell.clean, moved, cell.adversarial].forEach((x, k) => {
      const raw = { width: w, height: h, channels: 3 as const };
      pieces.push({ input: painted(x, shape, times), raw, left: left + k * (w + GAP), top });
    });
    const broken = cell.attack !== undefined;
    const colour = broken ? "#b3261e" : "#1b6e3a";
    const right = left + 2 * (w + GAP);
    texts.push(`<text x="${left}" y="${top + h + 14}" font-size="12">${escaped(cell.label)}</text>`);
    texts.push(
      `<text x="${right}" y="${top + h + 14}" font-size="12" fill="${colour}">${escaped(cell.prediction)}</text>`,
      `<text x="${left + w + GAP}" y="${top + h + 14}" font-size="12" fill="#666">${escaped(cell.attack ?? "unbroken")}</text>`,
    );
  });
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" fill="#222">${texts.join("")}</svg>`;
  const bytes = await sharp({ create: { width, height, channels: 3, background: "#ffffff" } })
    .composite([...pieces, { input: Buffer.from(svg), left: 0, top: 0 }])
    .png()
    .toBuffer();
  await writeFileAtomic(path, bytes);
};
