/** How a verb tells what it does while it does it. */

/** What a step reports. */
export interface ProgressUpdate {
  readonly step: number;
  readonly epoch?: number;
  /** Figures to show by name, in order: the loss first. */
  readonly figures?: Readonly<Record<string, number>>;
  /** Images done since the last update. */
  readonly images?: number;
  /** Seconds since the last update that were spent waiting for data. */
  readonly dataWait?: number;
}

export interface ProgressOptions {
  /** Steps in all. */
  readonly steps: number;
  /** Epochs in all. */
  readonly epochs?: number;
  /** Steps done before, by the run that is resumed. */
  readonly done?: number;
  /** Whether there may be fewer steps than that: the time left is then one at most. */
  readonly atMost?: boolean;
  /** What is counted (default `step`); `%` shows the share of the steps that are done instead of their number. */
  readonly unit?: string;
}

export interface ProgressLine {
  update(progress: ProgressUpdate): void;
  /** Leaves the line as it is and stops. Safe to call twice. */
  stop(): void;
}

/** What a verb says to people. */
export interface Reporter {
  /** A line about what is being done. */
  log(message: string): void;
  /** Something that the caller should know of, though the work goes on. */
  warn(message: string): void;
  /** A line of the results, as soon as it is known. */
  print(text: string): void;
  /** Begins to show how far something is. */
  progress(options: ProgressOptions): ProgressLine;
}

/** Says nothing but warnings, which go to stderr. */
export const quietReporter: Reporter = {
  log: () => {},
  warn: (message) => process.emitWarning(message, "AdvclWarning"),
  print: () => {},
  progress: () => ({ update: () => {}, stop: () => {} }),
};

/** A reporter whose every line goes to another's log, indented: for the parts of a whole. */
export const indentedReporter = (reporter: Reporter): Reporter => {
  const log = (message: string) => {
    for (const line of message.split("\n")) if (line !== "") reporter.log(`  ${line}`);
  };
  return {
    log,
    warn: (message) => reporter.warn(message),
    print: log,
    progress: (options) => reporter.progress(options),
  };
};
