import { RequestError } from "../errors.ts";
import {
  checkMembers,
  countRecords,
  type Location,
  locate,
  type Member,
  readMembers,
  readRecords,
  readWhole,
} from "../files/archive.ts";
import type { Dataset, FormatOptions } from "./dataset.ts";
import { digestBytes, imageDigest } from "./digest.ts";
import { allocateImages } from "./memory.ts";
import { byteResizer } from "./resize.ts";
import { samplePlaces } from "./sample.ts";

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

interface Images {
  readonly images: Uint8Array;
  readonly digests: Uint8Array;
}

/** Decodes the images at `places` of a file, given one by one. */
const decoder = (
  places: Int32Array,
  size: number,
): { readonly made: Images; take(record: Uint8Array, j: number): void } => {
  const upright = new Uint8Array(3 * plane);
  const resize = byteResizer(side, side, size);
  const length = 3 * size * size;
  const images = allocateImages(places.length, size, size);
  const digests = new Uint8Array(places.length * digestBytes);
  let next = 0;
  return {
    made: { images, digests },
    take: (record, j) => {
      if (places[next] !== j) return;
      digests.set(imageDigest("", record), next * digestBytes);
      transpose(record, upright);
      resize(upright, images.subarray(next * length, (next + 1) * length));
      next++;
    },
  };
};

const recordBytes = 3 * plane;

const readLabels = async (member: Member, maximum: number): Promise<Uint8Array> => {
  countRecords(member, 1, maximum);
  const labels = await readWhole(member, maximum);
  const wrong = labels.findIndex((label) => !(label >= 1 && label <= classes.length));
  if (wrong >= 0)
    throw new RequestError(
      `data: ${member.path} has label ${labels[wrong]} in record ${wrong}, but labels are 1 to ${classes.length}; check that it is the right file.`,
    );
  return labels.map((label) => label - 1);
};

const filesOf = (split: FormatOptions["split"]): readonly string[] =>
  split === "unlabeled" ? ["unlabeled_X.bin"] : [`${split}_X.bin`, `${split}_y.bin`];

const placeOf = ({ data, split }: FormatOptions): Promise<Location> => {
  if (data === undefined) throw new RangeError("internal: STL-10 without a place");
  return locate(data, [{ layout, files: filesOf(split) }]);
};

/** Refuses what `stl10` would before it reads the images. */
export const checkStl10 = async (options: FormatOptions): Promise<void> => checkMembers(await placeOf(options));

/** The images of a split without labels: which are read depends on their number alone. */
const readUnlabelled = async (options: FormatOptions, size: number): Promise<Images & { places: Int32Array }> => {
  const { limit = Infinity, seed } = options;
  const found = await readMembers(
    await placeOf(options),
    async (_, member) => {
      const count = countRecords(member, recordBytes, officialCounts.unlabeled);
      const places = samplePlaces({ count, limit, seed, stream: "stl10:unlabeled" });
      const { made, take } = decoder(places, size);
      await readRecords(member, recordBytes, take);
      return { ...made, places };
    },
    options,
  );
  return found.get("unlabeled_X.bin")!;
};

/** The images of a split with labels, which decide what is read: the bytes of all images are held until they are known. */
const readLabelled = async (
  options: FormatOptions,
  size: number,
): Promise<Images & { places: Int32Array; labels: Int32Array }> => {
  const { split, limit = Infinity, seed } = options;
  const official = officialCounts[split];
  const [imageFile, labelFile] = filesOf(split) as [string, string];
  const found = await readMembers(
    await placeOf(options),
    (name, member) => {
      if (name === labelFile) return readLabels(member, official);
      countRecords(member, recordBytes, official);
      return readWhole(member, recordBytes * official);
    },
    options,
  );
  const labels = found.get(labelFile)!;
  const bytes = found.get(imageFile)!;
  const count = bytes.length / recordBytes;
  if (labels.length !== count)
    throw new RequestError(
      `data: ${labelFile} has ${labels.length} labels but ${imageFile} has ${count} images; download STL-10 again.`,
    );
  const places = samplePlaces({ count, limit, labels, seed, stream: `stl10:${split}` });
  const { made, take } = decoder(places, size);
  for (const place of places) take(bytes.subarray(place * recordBytes, (place + 1) * recordBytes), place);
  return { ...made, places, labels: Int32Array.from(places, (place) => labels[place]!) };
};

/**
 * STL-10, binary version (Coates, Ng, Lee, 2011): three column-major planes of 96×96, labels from 1 in files of their
 * own. https://cs.stanford.edu/~acoates/stl10/
 */
export const stl10 = async (options: FormatOptions): Promise<Dataset> => {
  const { split, size = side } = options;
  const { images, digests, places, ...rest } = await (split === "unlabeled" ? readUnlabelled : readLabelled)(
    options,
    size,
  );
  return {
    name: "stl10",
    split,
    count: places.length,
    height: size,
    width: size,
    classes: split === "unlabeled" ? [] : classes,
    images,
    ...rest,
    index: places,
    officialCount: officialCounts[split],
    digests,
  };
};
