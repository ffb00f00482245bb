import type { ProgressLine, ProgressOptions } from "../verbs/reporter.ts";

interface Output {
  readonly stream: { readonly isTTY?: boolean; readonly columns?: number; write(text: string): unknown };
  readonly quiet?: boolean;
  /** Seconds between lines where the stream is not a terminal (default 10). */
  readonly interval?: number;
  /** Milliseconds of a clock that never goes back. */
  readonly now?: () => number;
}

/** Seconds between redrawings on a terminal. */
const redrawInterval = 0.1;

/** `2h 03m`, `4m 05s`, `6s`. */
export const printDuration = (seconds: number): string => {
  const s = Math.round(seconds);
  const two = (n: number): string => String(n).padStart(2, "0");
  if (s >= 86_400) return `${Math.floor(s / 86_400)}d ${two(Math.floor(s / 3600) % 24)}h`;
  if (s >= 3600) return `${Math.floor(s / 3600)}h ${two(Math.floor(s / 60) % 60)}m`;
  return s >= 60 ? `${Math.floor(s / 60)}m ${two(s % 60)}s` : `${s}s`;
};

const printRate = (rate: number): string => (rate >= 100 ? rate.toFixed(0) : rate.toPrecision(3));

/** Share of the newest step in the running means. */
const newest = 0.1;

/** Running means over steps; they start at the first value. */
class RunningMean {
  #mean: number | undefined;
  add(value: number): void {
    this.#mean = this.#mean === undefined ? value : this.#mean + newest * (value - this.#mean);
  }
  get value(): number | undefined {
    return this.#mean;
  }
}

/**
 * The line that shows how far a run is: epoch, step, figures, images a second, share of time spent waiting for data and
 * time left. On a terminal it is redrawn in place, elsewhere a line is written every few seconds and at the end.
 */
export const progressLine = (
  { steps, epochs, done = 0, unit = "step" }: ProgressOptions,
  { stream, quiet = false, interval = 10, now = () => performance.now() }: Output,
): ProgressLine => {
  if (quiet) return { update: () => {}, stop: () => {} };
  const secondsPerStep = new RunningMean();
  const imagesPerSecond = new RunningMean();
  const waiting = new RunningMean();
  const pause = 1000 * (stream.isTTY ? redrawInterval : interval);
  let line = "";
  let shown = "";
  let shownAt = Number.NEGATIVE_INFINITY;
  let step = done;
  let last = now();
  let running = true;
  const show = (): void => {
    shown = line;
    shownAt = last;
    stream.write(stream.isTTY ? `\r${line.slice(0, (stream.columns ?? 80) - 1)}\u001b[K` : `${line}\n`);
  };
  return {
    update: (progress) => {
      const time = now();
      const seconds = (time - last) / 1000;
      const stepped = progress.step - step;
      if (stepped > 0) secondsPerStep.add(seconds / stepped);
      if (progress.images !== undefined && seconds > 0) imagesPerSecond.add(progress.images / seconds);
      if (progress.dataWait !== undefined && seconds > 0) waiting.add(progress.dataWait / seconds);
      ({ step } = progress);
      last = time;
      const parts: string[] = [];
      if (progress.epoch !== undefined)
        parts.push(`epoch ${progress.epoch}${epochs === undefined ? "" : `/${epochs}`}`);
      parts.push(unit === "%" ? `${Math.floor((100 * step) / steps)} %` : `${unit} ${step}/${steps}`);
      for (const [name, value] of Object.entries(progress.figures ?? {})) parts.push(`${name} ${value.toPrecision(4)}`);
      if (imagesPerSecond.value !== undefined) parts.push(`${printRate(imagesPerSecond.value)} images/s`);
      if (waiting.value !== undefined) parts.push(`data ${Math.round(100 * waiting.value)}%`);
      // A share of very little says nothing of the rest: it is mostly loading.
      const telling = unit === "%" ? step >= 0.01 * steps : true;
      if (secondsPerStep.value !== undefined && telling && step < steps)
        parts.push(`${printDuration(secondsPerStep.value * (steps - step))} left`);
      line = parts.join("  ");
      if (last - shownAt >= pause) show();
    },
    stop: () => {
      if (!running) return;
      running = false;
      if (line !== shown) show();
      if (stream.isTTY && line !== "") stream.write("\n");
    },
  };
};
