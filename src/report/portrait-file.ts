/** `portrait.json` of a run of pretraining: what its report shows of images and features. */
import { z } from "zod";

export const portraitFile = "portrait.json";

/** A group of each point: a class, a cluster. */
const groupsSchema = z.object({
  /** Where the groups come from, for people. */
  source: z.string(),
  names: z.array(z.string()),
  /** The group of each point; -1 where it has none. */
  of: z.array(z.int()),
});

export const portraitSchema = z.object({
  gallery: z.object({
    /** What stands in each column, and a word more of it. */
    columns: z.array(z.object({ title: z.string(), note: z.string() })),
    /** One image each: its class, and its pictures in the order of the columns, as PNG in base64. */
    rows: z.array(z.object({ label: z.string(), pictures: z.array(z.string()) })),
  }),
  map: z.object({
    /** Where each image lies, by UMAP. */
    points: z.array(z.tuple([z.number(), z.number()])),
    /** What was drawn, for people. */
    source: z.string(),
    /** Colourings, each a chart: by class, by cluster. */
    groups: z.array(groupsSchema),
  }),
});

export type Portrait = z.infer<typeof portraitSchema>;
export type Gallery = Portrait["gallery"];
export type FeatureMap = Portrait["map"];
export type Groups = z.infer<typeof groupsSchema>;
