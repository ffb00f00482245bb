import { RequestError } from "../errors.ts";
import { type Layout, type Member, readMembers, readRecords } from "../files/archive.ts";
import type { Dataset, DatasetName, FormatOptions } from "./dataset.ts";
import { byteResizer } from "./resize.ts";

/**
 * CIFAR-10 and CIFAR-100, binary versions (Krizhevsky, 2009): records of label bytes followed by three planes of 32×32.
 * https://www.cs.toronto.edu/~kriz/cifar.html
 */
interface Cifar {
  readonly name: DatasetName;
  readonly layout: Layout;
  readonly files: { readonly train: readonly string[]; readonly test: readonly string[] };
  /** Records of each official file. */
  readonly fileCount: { readonly train: number; readonly test: number };
  /** Names of the classes, one list for each label byte. The last byte is the label. */
  readonly classes: readonly (readonly string[])[];
}

const side = 32;
const pixels = 3 * side * side;

interface Piece {
  readonly count: number;
  readonly images: Uint8Array;
  /** One array for each label byte. */
  readonly labels: readonly Uint8Array[];
}

const readPiece = async (
  member: Member,
  classes: readonly (readonly string[])[],
  maximum: number,
  limit: number,
  size: number,
): Promise<Piece> => {
  const resize = byteResizer(side, side, size);
  const length = 3 * size * size;
  let piece: Piece = { count: 0, images: new Uint8Array(0), labels: [] };
  await readRecords(
    member,
    classes.length + pixels,
    maximum,
    limit,
    (count) => {
      piece = { count, images: new Uint8Array(count * length), labels: classes.map(() => new Uint8Array(count)) };
    },
    (record, j) => {
      for (const [k, names] of classes.entries()) {
        const label = record[k]!;
        if (label >= names.length)
          throw new RequestError(
            `data: ${member.path} has label ${label} in record ${j}, but labels are 0 to ${names.length - 1}; check that it is the right file.`,
          );
        piece.labels[k]![j] = label;
      }
      resize(record.subarray(classes.length), piece.images.subarray(j * length, (j + 1) * length));
    },
  );
  return piece;
};

const load = async (cifar: Cifar, { data, split, size = side, limit = Infinity }: FormatOptions): Promise<Dataset> => {
  if (split === "unlabeled")
    throw new RequestError(`${cifar.layout.title} has no split unlabeled; its splits are train and test.`);
  const files = cifar.files[split];
  const fileCount = cifar.fileCount[split];
  const pieces = await readMembers(data!, cifar.layout, files, (_, member) =>
    readPiece(member, cifar.classes, fileCount, limit, size),
  );
  const kept = files.map((file) => pieces.get(file)!);
  const count = Math.min(
    limit,
    kept.reduce((sum, piece) => sum + piece.count, 0),
  );
  const length = 3 * size * size;
  const images = new Uint8Array(new SharedArrayBuffer(count * length));
  const labels = cifar.classes.map(() => new Int32Array(count));
  const index = new Int32Array(count);
  let at = 0;
  for (const [b, piece] of kept.entries()) {
    const n = Math.min(piece.count, count - at);
    images.set(piece.images.subarray(0, n * length), at * length);
    for (const [k, values] of labels.entries()) values.set(piece.labels[k]!.subarray(0, n), at);
    for (let j = 0; j < n; j++) index[at + j] = b * fileCount + j;
    at += n;
  }
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
    index,
    officialCount: files.length * fileCount,
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

/** CIFAR-10, binary version. */
export const cifar10 = (options: FormatOptions): Promise<Dataset> =>
  load(
    {
      name: "cifar10",
      layout: { title: "CIFAR-10", folder: "cifar-10-batches-bin", archive: "cifar-10-binary.tar.gz" },
      files: { train: [1, 2, 3, 4, 5].map((b) => `data_batch_${b}.bin`), test: ["test_batch.bin"] },
      fileCount: { train: 10_000, test: 10_000 },
      classes: [tenClasses],
    },
    options,
  );

/** CIFAR-100, binary version; `labels` are the fine ones. */
export const cifar100 = (options: FormatOptions): Promise<Dataset> =>
  load(
    {
      name: "cifar100",
      layout: { title: "CIFAR-100", folder: "cifar-100-binary", archive: "cifar-100-binary.tar.gz" },
      files: { train: ["train.bin"], test: ["test.bin"] },
      fileCount: { train: 50_000, test: 10_000 },
      classes: [coarseClasses, fineClasses],
    },
    options,
  );
