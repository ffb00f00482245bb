/**
 * The README's picture: images of `advcl demo` as they are, attacked through ordinary training and attacked through AdvCL's
 * encoder with a linear head, with what each classifier says of them.
 *
 *     npx advcl demo && node dist/scripts/docs/picture.js artifacts/demo docs/attacked.png
 *
 * It shows the first test images that both tell right until they are attacked, whatever comes of them then.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { loadDataset } from "../../src/data/dataset.ts";
import { RequestError } from "../../src/errors.ts";
import { evaluate } from "../../src/evaluate/evaluate.ts";
import { readSafetensors } from "../../src/files/safetensors.ts";
import { readRunConfig } from "../../src/runs/run-folder.ts";
import { readFlags } from "../flags.ts";

const SIDE = 112;
const GAP = 10;
const CAPTION = 26;
const LEFT = 178;
const COLUMNS = 8;
const LIMIT = 100;

const { positionals } = readFlags(import.meta.url, { options: {}, allowPositionals: true });
const [demo, out] = positionals;
if (demo === undefined || out === undefined)
  throw new RequestError("give the folder of a demonstration and the picture to write; see picture.js --help");

/** What PGD-20 makes of each test image through a classifier of the demonstration, and what that says of it then. */
const attacked = async (name: string): Promise<{ x: Tensor<"float32">; index: Tensor; prediction: Tensor }> => {
  const folder = await mkdtemp(join(tmpdir(), "advcl-picture-"));
  try {
    const model = join(demo, name);
    await evaluate({
      model,
      attacks: ["clean", "pgd20"],
      limit: LIMIT,
      saveAdversarial: true,
      out: join(folder, "run"),
    });
    const read = async (stage: string) =>
      (await readSafetensors(join(folder, "run", "adversarial", `${stage}.safetensors`))).tensors;
    const tensors = await read("pgd20");
    return {
      x: tensors.get("x") as Tensor<"float32">,
      index: tensors.get("index")!,
      prediction: tensors.get("prediction")!,
    };
  } finally {
    await rm(folder, { recursive: true });
  }
};

const config = await readRunConfig(join(demo, "slf"));
const seed = Number(config?.settings.seed ?? 0);
const size = Number((await readRunConfig(join(demo, "standard")))?.settings.size ?? 16);
const { images, labels, classes } = await loadDataset({ name: "textures", split: "test", size, limit: LIMIT, seed });
const [ordinary, robust] = [await attacked("standard"), await attacked("slf")];
const length = 3 * size * size;
const plane = size * size;

/** An enlarged image, planar bytes or shares of 1. */
const enlarged = (planar: ArrayLike<number>, scale: number): Promise<Buffer> => {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < plane; i++)
    for (let c = 0; c < 3; c++) bytes[3 * i + c] = Math.round(scale * planar[c * plane + i]!);
  return sharp(bytes, { raw: { width: size, height: size, channels: 3 } })
    .resize(SIDE, SIDE, { kernel: "nearest" })
    .png()
    .toBuffer();
};

/** The row of an attack's file that holds the i-th test image; undefined where it was wrong before any attack. */
const rowOf = ({ index }: { index: Tensor }, i: number): number | undefined => {
  const found = Array.from(index.data as Int32Array).indexOf(i);
  return found < 0 ? undefined : found;
};

const shown = Array.from({ length: LIMIT }, (_, i) => i)
  .filter((i) => {
    return rowOf(ordinary, i) !== undefined && rowOf(robust, i) !== undefined;
  })
  .slice(0, COLUMNS);

const pieces: { input: Buffer; left: number; top: number }[] = [];
const texts: string[] = [];
const say = (text: string, x: number, y: number, fill: string, weight = "normal"): void => {
  texts.push(`<text x="${x}" y="${y}" fill="${fill}" font-weight="${weight}">${text}</text>`);
};
const rows = [
  ["test image", ""],
  ["attacked through", "ordinary training"],
  ["attacked through", "AdvCL + linear head"],
] as const;
rows.forEach((lines, r) => {
  lines.forEach((line, k) => {
    say(line, 8, r * (SIDE + CAPTION + GAP) + GAP + 60 + 20 * k, "#333", k === 1 ? "bold" : "normal");
  });
});
for (const [column, i] of shown.entries()) {
  const left = LEFT + column * (SIDE + GAP);
  const truth = classes[labels![i]!]!;
  const cells = [
    { picture: await enlarged(images.subarray(i * length, (i + 1) * length), 1), text: truth, right: true },
    ...(await Promise.all(
      [ordinary, robust].map(async (attack) => {
        const row = rowOf(attack, i)!;
        const said = classes[Number(attack.prediction.data[row])] ?? "no class";
        const picture = await enlarged(attack.x.data.subarray(row * length, (row + 1) * length), 255);
        return { picture, text: said, right: said === truth };
      }),
    )),
  ];
  cells.forEach(({ picture, text, right }, r) => {
    const top = r * (SIDE + CAPTION + GAP) + GAP;
    pieces.push({ input: picture, left, top });
    say(
      `${r === 0 ? "" : right ? "✓ " : "✗ "}${text}`,
      left,
      top + SIDE + 18,
      r === 0 ? "#333" : right ? "#15803d" : "#b91c1c",
      "bold",
    );
  });
}
const width = LEFT + COLUMNS * (SIDE + GAP);
const height = 3 * (SIDE + CAPTION + GAP) + GAP;
const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="DejaVu Sans, sans-serif" font-size="14">${texts.join("")}</svg>`;
await sharp({ create: { width, height, channels: 3, background: "white" } })
  .composite([...pieces, { input: Buffer.from(svg), left: 0, top: 0 }])
  .png({ palette: true })
  .toFile(out);
console.log(`${out}: ${shown.length} test images of ${demo}, attacked by PGD-20 within 8/255`);
