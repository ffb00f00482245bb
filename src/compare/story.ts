/** What `advcl demo` leaves in its folder for the report. */
import { z } from "zod";

export const storyFile = "story.json";

const classifierSchema = z.object({
  name: z.string(),
  about: z.string(),
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

/** Head and rows of the closing table: clean accuracy (SA) and accuracy under PGD-20 (RA). */
export const classifierTable = (classifiers: readonly Classifier[]) => ({
  head: ["classifier", "SA, %", "RA, %"],
  rows: classifiers.map(({ name, about, accuracy, robustAccuracy }) => [
    `${name.toUpperCase()}: ${about}`,
    percent(accuracy),
    percent(robustAccuracy),
  ]),
});
