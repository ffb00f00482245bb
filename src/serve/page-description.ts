/** What advcl serve tells the page of its model: page.json, which serve writes and the page reads. */
export interface PageDescription {
  readonly title: string;
  /** Facts to show, by name. */
  readonly facts: Readonly<Record<string, string>>;
  /** Side of the square images. */
  readonly size: number;
  /** Numbers of an image's features. */
  readonly features: number;
  /** Rows of every head. */
  readonly slots: number;
  /** Rows of a training step. */
  readonly examples: number;
  /** Names of the model's classes. */
  readonly classes: readonly string[];
  /** Strength that the slider starts at, of pixels in [0, 1]. */
  readonly eps: number;
  /** Class of each sample, -1 where unknown. */
  readonly samples: readonly number[];
  readonly sampleClasses: readonly string[];
  /** Bias of a head's rows that stand for no class: none of them wins. */
  readonly unusedBias: number;
}
