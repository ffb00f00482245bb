/** Whether a classifier and a dataset belong together: labels, number of classes, their names. */
import type { Dataset } from "../data/dataset.ts";
import { RequestError } from "../errors.ts";
import { areNames } from "./class-names.ts";
import type { LoadedClassifier, OpenedClassifier } from "./classifier.ts";

/** How classes of a dataset find those of a model: by name, where both have names, or by their places. */
export const matchings = ["name", "position"] as const;

export interface FitOptions {
  readonly matchClasses: (typeof matchings)[number];
  readonly warn: (message: string) => void;
}

const spelled = (name: string): string =>
  name
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, " ")
    .trim();

const some = (names: readonly string[]): string =>
  names.length > 4 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");

const byPosition = "give --match-classes position to take them in order";

/** For each class of the dataset the model's; undefined where they are in one order. */
export const placesOf = (
  dataset: Pick<Dataset, "name" | "classes">,
  { source, classes, classNames }: Labelled,
  { matchClasses, warn }: FitOptions,
): Int32Array | undefined => {
  const given = dataset.classes;
  const count = given.length;
  if (matchClasses === "position") {
    if (count > classes)
      throw new RequestError(
        `${source} has ${classes} classes but ${dataset.name} has ${count}; give the model's dataset`,
      );
    if (count < classes)
      warn(`${dataset.name} has ${count} classes: they are taken for the first of the ${classes} of ${source}`);
    return undefined;
  }
  if (classNames.length === 0 || !areNames(given)) {
    if (count !== classes)
      throw new RequestError(
        `${source} has ${classes} classes but ${dataset.name} has ${count} (${some(given)}); give the model's dataset` +
          (count < classes ? `, or ${byPosition}` : ", or another --output"),
      );
    return undefined;
  }
  const known = new Map(classNames.map((name, place) => [spelled(name), place]));
  const missing = given.filter((name) => !known.has(spelled(name)));
  if (missing.length > 0)
    throw new RequestError(
      `${source} has no class named ${some(missing)} (it has ${some(classNames)}); rename the folders, or ${byPosition}`,
    );
  const places = Int32Array.from(given, (name) => known.get(spelled(name)) as number);
  if (count < classes)
    warn(`${dataset.name} has ${count} of the ${classes} classes of ${source}, found by name: ${some(given)}`);
  else if (places.some((place, i) => place !== i))
    warn(`classes of ${dataset.name} are matched with those of ${source} by name`);
  return places.every((place, i) => place === i) ? undefined : places;
};

/** The dataset with its labels numbered as the model's classes are. */
const relabelled = (dataset: Dataset, labels: Int32Array, places: Int32Array | undefined, names: readonly string[]) =>
  places === undefined ? dataset : { ...dataset, labels: labels.map((label) => places[label]!), classes: [...names] };

export interface Fitted {
  readonly classifier: LoadedClassifier;
  /** For each class of the dataset the model's; undefined where they are in one order. */
  readonly places: Int32Array | undefined;
  /** With labels that number the model's classes. */
  readonly dataset: Dataset & { readonly labels: Int32Array };
}

/**
 * Brings a model and labelled images together, and says what was guessed.
 * @throws RequestError where they contradict each other
 */
export const fitDataset = (opened: OpenedClassifier, dataset: Dataset, options: FitOptions): Fitted => {
  const { labels, name, split } = dataset;
  if (labels === undefined)
    throw new RequestError(
      `the ${split} images of ${name} have no labels; choose another --split or a labelled dataset`,
    );
  if (dataset.count === 0) throw new RequestError(`${name} has no ${split} images; give others`);
  const classifier = opened.classifier(dataset.classes.length);
  const places = placesOf(dataset, classifier, options);
  const { classNames } = classifier;
  const fitted = relabelled(dataset, labels, places, classNames) as Fitted["dataset"];
  return { classifier, places, dataset: fitted };
};

/** Whether two lists of classes are the same in one order, as far as they have names. */
export const sameClasses = (one: readonly string[], other: readonly string[]): boolean =>
  !areNames(one) || !areNames(other) || one.map(spelled).join() === other.map(spelled).join();

/** What of a classifier its labels are matched by. */
export type Labelled = Pick<LoadedClassifier, "source" | "classes" | "classNames">;

/** The same for further images of a model that has been fitted. */
export const fitLabels = (
  classifier: Labelled,
  dataset: Dataset,
  options: FitOptions,
): Dataset & { readonly labels: Int32Array } => {
  const { labels } = dataset;
  if (labels === undefined)
    throw new RequestError(`the ${dataset.split} images of ${dataset.name} have no labels; choose a labelled dataset`);
  const places = placesOf(dataset, classifier, options);
  const { classNames } = classifier;
  return relabelled(dataset, labels, places, classNames) as Dataset & { readonly labels: Int32Array };
};
