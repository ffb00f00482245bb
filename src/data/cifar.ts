import { RequestError } from "../errors.ts";
import {
  checkMembers,
  countRecords,
  type Layout,
  type Location,
  locate,
  type Member,
  readMembers,
  readWhole,
  type Version,
} from "../files/archive.ts";
import { PickledArray, readPickledDictionary } from "../files/pickle.ts";
import type { Dataset, DatasetName, FormatOptions } from "./dataset.ts";
import { digestBytes, imageDigest } from "./digest.ts";
import { allocateImages } from "./memory.ts";
import { byteResizer } from "./resize.ts";
import { samplePlaces } from "./sample.ts";

/**
 * CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), as published for programs and for Python: records of label bytes followed by
 * three planes of 32×32, or pickled dictionaries of the same. https://www.cs.toronto.edu/~kriz/cifar.html
 */
interface Cifar {
  readonly name: DatasetName;
  readonly binary: Layout;
  readonly python: Layout;
  /** Files of the Python version; those of the binary one have `.bin` behind. */
  readonly files: { readonly train: readonly string[]; readonly test: readonly string[] };
  /** Records of each official file. */
  readonly fileCount: { readonly train: number; readonly test: number };
  /** Names of the classes, one list for each label byte. The last byte is the label. */
  readonly classes: readonly (readonly string[])[];
  /** Keys of the same labels in the Python version. */
  readonly keys: readonly string[];
}

const side = 32;
const pixels = 3 * side * side;

/** One file: `count` images, their labels (an array for each label byte), and where each image's pixels begin. */
interface Piece {
  readonly path: string;
  readonly count: number;
  readonly labels: readonly Uint8Array[];
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly stride: number;
}

const checkLabel = (path: string, label: unknown, classes: readonly string[], j: number): number => {
  if (!(Number.isInteger(label) && (label as number) >= 0 && (label as number) < classes.length))
    throw new RequestError(
      `data: ${path} has label ${String(label)} in record ${j}, but labels are 0 to ${classes.length - 1}; check that it is the right file.`,
    );
  return label as number;
};

const readBinary = async ({ classes }: Cifar, member: Member, maximum: number): Promise<Piece> => {
  const stride = classes.length + pixels;
  const count = countRecords(member, stride, maximum);
  const bytes = await readWhole(member, stride * maximum);
  const labels = classes.map((names, k) =>
    Uint8Array.from({ length: count }, (_, j) => checkLabel(member.path, bytes[j * stride + k], names, j)),
  );
  return { path: member.path, count, labels, bytes, start: classes.length, stride };
};

/** Beside its images a pickled file has their names, a byte or so each character: a bound on its size. */
const longestRecord = 2 * pixels;

const readPython = async ({ classes, keys }: Cifar, member: Member, maximum: number): Promise<Piece> => {
  const { path } = member;
  const refuse = (what: string): RequestError =>
    new RequestError(`data: ${path} is not a file of the dataset's Python version: ${what}; download it again.`);
  const file = await readWhole(member, longestRecord * maximum);
  try {
    const content = readPickledDictionary(file);
    const data = content.get("data");
    if (!(data instanceof PickledArray)) throw new Error("it has no array under data");
    const { shape, code, bytes } = data.raw();
    const count = shape[0] ?? 0;
    if (code !== "u1" || shape.length !== 2 || shape[1] !== pixels || count < 1 || count > maximum)
      throw new Error(`its data is ${code}[${shape.join(",")}], not u1[1 to ${maximum},${pixels}]`);
    const labels = classes.map((names, k) => {
      const list = content.get(keys[k]);
      if (!(Array.isArray(list) && list.length === count)) throw new Error(`it has no ${count} ${keys[k]}`);
      return Uint8Array.from(list, (label: unknown, j) => checkLabel(path, label, names, j));
    });
    return { path, count, labels, bytes, start: 0, stride: pixels };
  } catch (cause) {
    const { message } = cause as Error;
    throw message.startsWith("data:") ? cause : refuse(message);
  }
};

const placeOf = ({ name, binary, python, files }: Cifar, { data, split }: FormatOptions): Promise<Location> => {
  if (split === "unlabeled")
    throw new RequestError(`${binary.title} has no split unlabeled; its splits are train and test.`);
  if (data === undefined) throw new RangeError(`internal: ${name} without a place`);
  const versions: readonly Version[] = [
    { layout: binary, files: files[split].map((file) => `${file}.bin`) },
    { layout: python, files: files[split] },
  ];
  return locate(data, versions);
};

const load = async (cifar: Cifar, options: FormatOptions): Promise<Dataset> => {
  const { split, size = side, limit = Infinity, seed } = options;
  const location = await placeOf(cifar, options);
  const key = split === "test" ? "test" : "train";
  const fileCount = cifar.fileCount[key];
  const found = await readMembers(
    location,
    (file, member) => (file.endsWith(".bin") ? readBinary : readPython)(cifar, member, fileCount),
    options,
  );
  const binary = cifar.files[key].map((file) => found.get(`${file}.bin`));
  const pieces = (
    binary.every((piece) => piece !== undefined) ? binary : cifar.files[key].map((file) => found.get(file))
  ) as Piece[];
  const all = pieces.flatMap((piece, b) =>
    Array.from({ length: piece.count }, (_, j) => ({ piece, j, official: b * fileCount + j })),
  );
  const fine = cifar.classes.length - 1;
  const places = samplePlaces({
    count: all.length,
    limit,
    labels: all.map(({ piece, j }) => piece.labels[fine]![j]!),
    seed,
    stream: `${cifar.name}:${split}`,
  });
  const count = places.length;
  const length = 3 * size * size;
  const images = allocateImages(count, size, size);
  const digests = new Uint8Array(count * digestBytes);
  const resize = byteResizer(side, side, size);
  const chosen = Array.from(places, (place) => all[place]!);
  for (const [i, { piece, j }] of chosen.entries()) {
    const begin = piece.start + j * piece.stride;
    const image = piece.bytes.subarray(begin, begin + pixels);
    digests.set(imageDigest("", image), i * digestBytes);
    resize(image, images.subarray(i * length, (i + 1) * length));
  }
  const labels = cifar.classes.map((_, k) => Int32Array.from(chosen, ({ piece, j }) => piece.labels[k]![j]!));
  return {
    name: cifar.name,
    split,
    count,
    height: size,
    width: size,
    classes: cifar.classes.at(-1)!,
    images,
    labels: labels.at(-1)!,
    ...(labels.length > 1 && { coarseClasses: cifar.classes[0]!, coarseLabels: labels[0]! }),
    index: Int32Array.from(chosen, ({ official }) => official),
    officialCount: pieces.length * fileCount,
    digests,
  };
};

const words = (text: string): readonly string[] => text.trim().split(/\s+/);

const tenClasses = words("airplane automobile bird cat deer dog frog horse ship truck");

const coarseClasses = words(`
  aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture
  insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
  medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2`);

const fineClasses = words(`
  apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
  caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
  forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
  mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
  possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
  sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
  willow_tree wolf woman worm`);

const ten: Cifar = {
  name: "cifar10",
  binary: { title: "CIFAR-10", folder: "cifar-10-batches-bin", archive: "cifar-10-binary.tar.gz" },
  python: { title: "CIFAR-10", folder: "cifar-10-batches-py", archive: "cifar-10-python.tar.gz" },
  files: { train: [1, 2, 3, 4, 5].map((b) => `data_batch_${b}`), test: ["test_batch"] },
  fileCount: { train: 10_000, test: 10_000 },
  classes: [tenClasses],
  keys: ["labels"],
};

const hundred: Cifar = {
  name: "cifar100",
  binary: { title: "CIFAR-100", folder: "cifar-100-binary", archive: "cifar-100-binary.tar.gz" },
  python: { title: "CIFAR-100", folder: "cifar-100-python", archive: "cifar-100-python.tar.gz" },
  files: { train: ["train"], test: ["test"] },
  fileCount: { train: 50_000, test: 10_000 },
  classes: [coarseClasses, fineClasses],
  keys: ["coarse_labels", "fine_labels"],
};

/** CIFAR-10, binary or Python version. */
export const cifar10 = (options: FormatOptions): Promise<Dataset> => load(ten, options);

/** CIFAR-100, binary or Python version; `labels` are the fine ones. */
export const cifar100 = (options: FormatOptions): Promise<Dataset> => load(hundred, options);

/** Refuses what `cifar10` would before it reads the images. */
export const checkCifar10 = async (options: FormatOptions): Promise<void> => checkMembers(await placeOf(ten, options));

/** Refuses what `cifar100` would before it reads the images. */
export const checkCifar100 = async (options: FormatOptions): Promise<void> =>
  checkMembers(await placeOf(hundred, options));
