import { RequestError } from "../errors.ts";
import { type Member, readMembers, readRecords } from "../files/archive.ts";
import type { Dataset, FormatOptions } from "./dataset.ts";
import { byteResizer } from "./resize.ts";

const side = 96;
const plane = side * side;

const layout = { title: "STL-10", folder: "stl10_binary", archive: "stl10_binary.tar.gz" };
const officialCounts = { train: 5_000, test: 8_000, unlabeled: 100_000 };
const classes = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

const transpose = (record: Uint8Array, out: Uint8Array): void => {
  for (let p = 0; p < 3; p++)
    for (let y = 0; y < side; y++)
      for (let x = 0; x < side; x++) out[p * plane + y * side + x] = record[p * plane + x * side + y]!;
};

const readImages = async (member: Member, maximum: number, limit: number, size: number): Promise<Uint8Array> => {
  const upright = new Uint8Array(3 * plane);
  const resize = byteResizer(side, side, size);
  const length = 3 * size * size;
  let images: Uint8Array = new Uint8Array(0);
  await readRecords(
    member,
    3 * plane,
    maximum,
    limit,
    (count) => {
      images = new Uint8Array(new SharedArrayBuffer(count * length));
    },
    (record, j) => {
      transpose(record, upright);
      resize(upright, images.subarray(j * length, (j + 1) * length));
    },
  );
  return images;
};

const readLabels = async (member: Member, maximum: number): Promise<Uint8Array> => {
  let labels = new Uint8Array(0);
  await readRecords(
    member,
    1,
    maximum,
    Infinity,
    (count) => {
      labels = new Uint8Array(count);
    },
    ([label], j) => {
      if (!(label! >= 1 && label! <= classes.length))
        throw new RequestError(
          `data: ${member.path} has label ${label} in record ${j}, but labels are 1 to ${classes.length}; check that it is the right file.`,
        );
      labels[j] = label! - 1;
    },
  );
  return labels;
};

/**
 * STL-10, binary version (Coates, Ng, Lee, 2011): three column-major planes of 96×96, labels from 1 in files of their
 * own. https://cs.stanford.edu/~acoates/stl10/
 */
export const stl10 = async ({ data, split, size = side, limit = Infinity }: FormatOptions): Promise<Dataset> => {
  const official = officialCounts[split];
  const imageFile = `${split}_X.bin`;
  const labelFile = `${split}_y.bin`;
  const labelled = split !== "unlabeled";
  let total = 0;
  const members = await readMembers(data!, layout, labelled ? [imageFile, labelFile] : [imageFile], (name, member) => {
    if (name === labelFile) return readLabels(member, official);
    total = member.size / (3 * plane);
    return readImages(member, official, limit, size);
  });
  const images = members.get(imageFile)!;
  const count = images.length / (3 * size * size);
  const labels = members.get(labelFile);
  if (labels !== undefined && labels.length !== total)
    throw new RequestError(
      `data: ${labelFile} has ${labels.length} labels but ${imageFile} has ${total} images; download STL-10 again.`,
    );
  return {
    name: "stl10",
    split,
    count,
    height: size,
    width: size,
    classes: labelled ? classes : [],
    images,
    ...(labels && { labels: Int32Array.from(labels.subarray(0, count)) }),
    index: Int32Array.from({ length: count }, (_, i) => i),
    officialCount: official,
  };
};
