/** What an export tells of its images in its metadata, under `preprocessing`: how they become what its network takes. */
import { z } from "zod";
import { roundingName } from "../../graphs/deploy/photograph.ts";
import type { FileModel, FileNode } from "../../graphs/onnx/parse.ts";

/** The one way in which images are made square, here as words: `squareBytes` (src/data/resize.ts) is it as a program. */
const resize = {
  crop: "central square",
  resize: "bilinear, antialiased (as Pillow, and torchvision with antialias=True)",
  round: "to bytes, halves up",
} as const;

const schema = z.object({ input: z.string(), size: z.int().min(1).max(4096) });

/** What is written into an export of a network for images of a size. */
export const preprocessingOf = (inside: boolean, size: number): Readonly<Record<string, unknown>> =>
  inside
    ? { input: "uint8 NHWC RGB", size, inside: { ...resize, divide: 255 } }
    : { input: "float32 NCHW RGB", range: [0, 1], size, mean: [0, 0, 0], std: [1, 1, 1], before: resize };

const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

/** The side of the images of the network in a file; undefined where the file does not tell. */
export const sizeToldBy = ({ preprocessing = "" }: Readonly<Record<string, string>>): number | undefined =>
  schema.safeParse(parsed(preprocessing)).data?.size;

const isRounding = ({ name }: FileNode): boolean => name.startsWith(roundingName);

/**
 * The file without the rounding of its own preprocessing, which changes nothing of images that have its network's size and no
 * gradient passes. Of bytes that were rounded on their way in, the values are the same.
 */
export const withoutRounding = (file: FileModel): FileModel =>
  file.metadata.preprocessing === undefined || !file.nodes.some(isRounding)
    ? file
    : {
        ...file,
        nodes: file.nodes.map((node) =>
          isRounding(node) ? { ...node, op: "Identity", inputs: node.inputs.slice(0, 1), attributes: new Map() } : node,
        ),
      };
