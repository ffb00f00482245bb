/** What `advcl demo` leaves in its folder for the report. */
import { z } from "zod";
import { wilsonInterval } from "../evaluate/interval.ts";

export const storyFile = "story.json";

const classifierSchema = z.object({
  name: z.string(),
  /** What it is in two or three words. */
  title: z.string(),
  about: z.string(),
  testImages: z.number(),
  accuracy: z.number(),
  robustAccuracy: z.number(),
});
export type Classifier = z.infer<typeof classifierSchema>;

export const storySchema = z.object({
  classifiers: z.array(classifierSchema),
  parts: z.array(z.object({ name: z.string(), about: z.string(), command: z.string(), seconds: z.number() })),
});
export type Story = z.infer<typeof storySchema>;

const percent = (share: number): string => (100 * share).toFixed(1);

/** Bounds of a share of a classifier's test images, 95 %. */
export const intervalOf = (share: number, { testImages }: Classifier): readonly [low: number, high: number] =>
  wilsonInterval(Math.round(share * testImages), testImages);

const bounds = ([low, high]: readonly [number, number]): string => `${percent(low)} to ${percent(high)}`;

/** Head and rows of the closing table: clean accuracy (SA) and accuracy under PGD-20 (RA) with its 95 % interval. */
export const classifierTable = (classifiers: readonly Classifier[]) => ({
  head: ["classifier", "SA, %", "RA, %", "95 % interval"],
  rows: classifiers.map((classifier) => [
    classifier.about,
    percent(classifier.accuracy),
    percent(classifier.robustAccuracy),
    bounds(intervalOf(classifier.robustAccuracy, classifier)),
  ]),
});
