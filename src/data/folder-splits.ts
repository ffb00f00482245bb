import { join } from "node:path";
import { RequestError } from "../errors.ts";
import { misfit, sniffFile } from "../files/sniff.ts";
import type { FormatOptions, Split } from "./dataset.ts";
import { byName, describeLeftOut, imagesUnder, type LeftOut, type Listing, list } from "./folder-listing.ts";
import { random } from "./random.ts";

/** The images of a split of a folder, not yet read. */
export interface FolderImages {
  /** The folder that `names` start from. */
  readonly root: string;
  /** Paths from there, `/` between names; the images' names in digests. */
  readonly names: readonly string[];
  readonly classes: readonly string[];
  readonly labels: Int32Array | undefined;
  /** Place of each in the full split (where a share is held out, in all images of the folder). */
  readonly places: Int32Array;
  readonly total: number;
}

type Named = Split | "val";

/** Names under which people keep their splits, without case, hyphens and underscores; `val` serves where test is missing. */
const splitNames: ReadonlyMap<string, Named> = new Map<string, Named>([
  ...["train", "training", "trainset", "trainingset", "traindata", "trainingdata"].map((n): [string, Named] => [
    n,
    "train",
  ]),
  ...["test", "testing", "testset", "testingset", "testdata"].map((n): [string, Named] => [n, "test"]),
  ...["val", "valid", "validation", "valset", "validset", "validationset"].map((n): [string, Named] => [n, "val"]),
  ...["unlabeled", "unlabelled"].map((n): [string, Named] => [n, "unlabeled"]),
]);

const splitOf = (name: string): Named | undefined => splitNames.get(name.toLowerCase().replaceAll(/[-_ ]/g, ""));

/** Folders by the split that they are, spelled as it is where there is one; none where the folder has no such folders. */
const splitsIn = (data: string, folders: readonly string[]): ReadonlyMap<Named, string> => {
  const found = new Map<Named, string>();
  for (const split of new Set(splitNames.values())) {
    const named = folders.filter((name) => splitOf(name) === split);
    const chosen = named.includes(split) ? split : named[0];
    if (chosen === undefined) continue;
    if (named.length > 1 && chosen !== split)
      throw new RequestError(
        `data: ${data} has both ${named[0]} and ${named[1]} for its ${split} images; rename one of them.`,
      );
    found.set(split, chosen);
  }
  return found;
};

type Request = Pick<FormatOptions, "split" | "testShare" | "warn"> & { readonly data: string };

/** Whether images of a folder without splits are the held-out ones: the same ones whatever else the folder holds. */
const heldOut = (names: readonly string[], labels: ArrayLike<number>, share: number): Uint8Array => {
  const members = new Map<number, number[]>();
  names.forEach((_, i) => {
    const label = labels[i]!;
    const places = members.get(label);
    if (places === undefined) members.set(label, [i]);
    else places.push(i);
  });
  const held = new Uint8Array(names.length);
  // Not the run's seed: another would test a model on what it was trained on.
  const height = names.map((name) => random(0, 0, 0, `held-out:${name}`).uniform());
  for (const places of members.values()) {
    const count = Math.min(places.length - 1, Math.max(1, Math.round(share * places.length)));
    places.sort((a, b) => height[a]! - height[b]! || a - b);
    for (const place of places.slice(0, count)) held[place] = 1;
  }
  return held;
};

/** All images of class folders. */
const labelled = async (
  root: string,
  folders: readonly string[],
  classes: readonly string[],
  leftOut: LeftOut,
): Promise<{ names: string[]; labels: number[] }> => {
  const names: string[] = [];
  const labels: number[] = [];
  for (const name of folders) {
    const label = classes.indexOf(name);
    for (const image of await imagesUnder(join(root, name), leftOut)) {
      names.push(`${name}/${image}`);
      labels.push(label);
    }
  }
  return { names, labels };
};

const noImages = (root: string, split: Split, leftOut: LeftOut): RequestError =>
  new RequestError(
    `data: ${root} has no images for split ${split}${leftOut.size > 0 ? ` (${describeLeftOut(leftOut)})` : ""}; give another folder.`,
  );

/** A folder without splits: images alone, all of them in every split, or classes of which a share is held out. */
const withoutSplits = async (
  { data, split, testShare, warn }: Request,
  { folders, images }: Listing,
  leftOut: LeftOut,
): Promise<FolderImages> => {
  if (folders.length === 0) {
    if (images.length === 0) throw noImages(data, split, leftOut);
    return { root: data, names: images, classes: [], labels: undefined, ...placed(images.length) };
  }
  const { names, labels } = await labelled(data, folders, folders, leftOut);
  if (names.length === 0) throw noImages(data, split, leftOut);
  if (split === "unlabeled") return { root: data, names, classes: [], labels: undefined, ...placed(names.length) };
  if (testShare === 0) {
    if (split === "test")
      throw new RequestError(
        `data: ${data} has no folders train and test, and nothing is held out for testing; make a folder test beside a folder train, or give a test share above 0.`,
      );
    return { root: data, names, classes: folders, labels: Int32Array.from(labels), ...placed(names.length) };
  }
  const held = heldOut(names, labels, testShare);
  const count = held.reduce((sum, h) => sum + h, 0);
  warn(
    `${data} has no folders train and test: of its ${names.length} images ${count} are held out for testing, ${(100 * testShare).toFixed(0)} % of each class and always the same ones; make these folders to choose them yourself`,
  );
  const places = Int32Array.from(names.keys()).filter((i) => held[i] === Number(split === "test"));
  if (places.length === 0)
    throw new RequestError(
      `data: ${data} has too few images to hold some out for testing; make folders train and test.`,
    );
  return {
    root: data,
    names: Array.from(places, (i) => names[i]!),
    classes: folders,
    labels: Int32Array.from(places, (i) => labels[i]!),
    places,
    total: names.length,
  };
};

const placed = (count: number) => ({ places: Int32Array.from({ length: count }, (_, i) => i), total: count });

/** The folder of a split, or of what serves as it. */
const folderOf = (
  { data, split, warn }: Request,
  splits: ReadonlyMap<Named, string>,
  folders: readonly string[],
): string => {
  const exact = splits.get(split);
  const validation = splits.get("val");
  if (exact !== undefined) {
    if (split === "test" && validation !== undefined)
      warn(`${join(data, exact)} has the test images; ${join(data, validation)} is not used`);
    return exact;
  }
  if (split === "test" && validation !== undefined) {
    warn(`${data} has no folder test: ${join(data, validation)} serves as the test images`);
    return validation;
  }
  const train = splits.get("train");
  const remedy =
    split === "test" && train !== undefined
      ? `make a folder test beside it, or give ${join(data, train)} itself, of which a part is then held out`
      : `rename the folder of these images to ${split}`;
  throw new RequestError(`data: ${data} has no folder ${split}; its folders are ${folders.join(", ")}; ${remedy}.`);
};

const withSplits = async (
  request: Request,
  top: Listing,
  splits: ReadonlyMap<Named, string>,
  leftOut: LeftOut,
): Promise<FolderImages> => {
  const { data, split, warn } = request;
  const strangers = top.folders.filter((name) => splitOf(name) === undefined);
  if (strangers.length > 0)
    warn(
      `${data} has folders train and test; beside them ${strangers.slice(0, 4).join(", ")} ${strangers.length === 1 ? "is" : "are"} not used`,
    );
  const root = join(data, folderOf(request, splits, top.folders));
  const { folders, images } = await list(root, leftOut);
  if (folders.length === 0) {
    if (images.length === 0) throw noImages(root, split, leftOut);
    return { root, names: images, classes: [], labels: undefined, ...placed(images.length) };
  }
  checkUnmixed(root, folders, images);
  // A class may be absent from the test images without moving the numbers of the others.
  const train = splits.get("train");
  const named = split === "test" && train !== undefined ? (await list(join(data, train), new Map())).folders : [];
  const classes = named.length > 0 ? named : folders;
  const stranger = folders.find((name) => !classes.includes(name));
  if (stranger !== undefined)
    throw new RequestError(
      `data: ${join(root, stranger)} is a class that ${join(data, train ?? "")} does not have; remove it.`,
    );
  const { names, labels } = await labelled(root, folders, classes, leftOut);
  if (names.length === 0) throw noImages(root, split, leftOut);
  return { root, names, classes, labels: Int32Array.from(labels), ...placed(names.length) };
};

const checkUnmixed = (path: string, folders: readonly string[], images: readonly string[]): void => {
  if (folders.length > 0 && images.length > 0)
    throw new RequestError(
      `data: ${path} holds both images (${images[0]}) and class folders (${folders[0]}); move the images into a class.`,
    );
};

/**
 * The images of a split: of `train/<class>/…` and `test/<class>/…` (under any of their usual names), of `<class>/…`,
 * of which a share is held out for testing, or images alone.
 * @throws RequestError naming what is missing, before any image is read
 */
export const findImages = async (request: Request): Promise<FolderImages> => {
  const { data, warn } = request;
  const leftOut: LeftOut = new Map();
  const top = await list(data, leftOut).catch(async (error: unknown) => {
    const { code } = ((error as Error).cause ?? {}) as NodeJS.ErrnoException;
    if (code !== "ENOTDIR") throw error;
    throw misfit(`data: ${data}`, (await sniffFile(data)).kind, "a folder of images", "give the folder that holds it");
  });
  const splits = splitsIn(data, top.folders);
  if (splits.size === 0) checkUnmixed(data, top.folders, top.images);
  const found = await (splits.size > 0
    ? withSplits(request, top, splits, leftOut)
    : withoutSplits(request, top, leftOut));
  const others = describeLeftOut(leftOut);
  if (others !== undefined) warn(`${found.root}: ${others}`);
  const counts = new Int32Array(found.classes.length);
  for (const label of found.labels ?? []) counts[label]!++;
  const empty = found.classes.filter((_, label) => counts[label] === 0);
  if (empty.length > 0)
    warn(`${found.root} has no images of ${empty.slice(0, 8).sort(byName).join(", ")}${empty.length > 8 ? ", …" : ""}`);
  return found;
};
