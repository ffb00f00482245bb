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

/** What is left of older updates with each new one: rates should show what is now, times left be steady. */
const kept = { rate: 0.9, time: 0.995 };

/**
 * One sum over another, newer updates counting more. The first update, which holds loading and warming up, counts only until
 * there is a second, where updates are of like size.
 */
class Ratio {
  #above = 0;
  #below = 0;
  #count = 0;
  readonly #kept: number;
  readonly #alike: boolean;
  constructor(share: number, alike: boolean) {
    this.#kept = share;
    this.#alike = alike;
  }
  add(above: number, below: number): void {
    const keeping = ++this.#count === 2 && this.#alike ? 0 : this.#kept;
    this.#above = keeping * this.#above + above;
    this.#below = keeping * this.#below + below;
  }
  get value(): number | undefined {
    return this.#below > 0 ? this.#above / this.#below : undefined;
  }
  /** Whether it is of more than the first update. */
  get tells(): boolean {
    return this.#count > 1 || !this.#alike;
  }
}

/** Columns of the bar on a terminal. */
const barWidth = 20;

/** `━━━━━━━━────────────`. */
const printBar = (share: number): string => {
  const done = Math.round(barWidth * Math.min(1, Math.max(0, share)));
  return "━".repeat(done) + "─".repeat(barWidth - done);
};

/**
 * The line that shows how far a run is: epoch, step, figures, images a second, share of time spent waiting for data and
 * time left. On a terminal it is redrawn in place after a bar, elsewhere a line is written every few seconds and at the end.
 */
export const progressLine = (
  { steps, epochs, done = 0, unit = "step", atMost = false }: ProgressOptions,
  { stream, quiet = false, interval = 10, now = () => performance.now() }: Output,
): ProgressLine => {
  if (quiet) return { update: () => {}, stop: () => {} };
  const alike = unit === "step";
  const secondsPerStep = new Ratio(kept.time, alike);
  const imagesPerSecond = new Ratio(kept.rate, alike);
  const waiting = new Ratio(kept.rate, alike);
  const pause = 1000 * (stream.isTTY ? redrawInterval : interval);
  let line = "";
  let shown = "";
  let shownAt = Number.NEGATIVE_INFINITY;
  let step = done;
  let last = now();
  /** Seconds since `step` moved. */
  let still = 0;
  let running = true;
  const show = (): void => {
    shown = line;
    shownAt = last;
    if (!stream.isTTY) return void stream.write(`${line}\n`);
    const columns = (stream.columns ?? 80) - 1;
    // A narrow terminal needs its columns for the figures.
    const bar = columns >= 3 * barWidth ? `${printBar(step / steps)} ` : "";
    stream.write(`\r${(bar + line).slice(0, columns)}\u001b[K`);
  };
  return {
    update: (progress) => {
      const time = now();
      const seconds = (time - last) / 1000;
      const stepped = progress.step - step;
      still += seconds;
      if (stepped > 0) {
        secondsPerStep.add(still, stepped);
        still = 0;
      }
      if (progress.images !== undefined) imagesPerSecond.add(progress.images, seconds);
      if (progress.dataWait !== undefined) waiting.add(progress.dataWait, seconds);
      ({ step } = progress);
      last = time;
      const parts: string[] = [];
      if (progress.epoch !== undefined)
        parts.push(`epoch ${progress.epoch}${epochs === undefined ? "" : `/${epochs}`}`);
      parts.push(unit === "%" ? `${Math.floor((100 * step) / steps)} %` : `${unit} ${step}/${steps}`);
      for (const [name, value] of Object.entries(progress.figures ?? {})) parts.push(`${name} ${value.toPrecision(4)}`);
      if (imagesPerSecond.value !== undefined) parts.push(`${printRate(imagesPerSecond.value)} images/s`);
      if (waiting.value !== undefined) parts.push(`data ${Math.round(100 * waiting.value)}%`);
      // The first step, and a share of very little, say nothing of the rest: they are mostly loading.
      const telling = secondsPerStep.tells && (unit !== "%" || step >= 0.02 * steps);
      if (secondsPerStep.value !== undefined && telling && step < steps) {
        const left = printDuration(secondsPerStep.value * (steps - step));
        parts.push(atMost ? `at most ${left} left` : `${left} left`);
      }
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
