import { describe, expect, test } from "@jest/globals";
import { printDuration, progressLine } from "../../src/cli/progress.ts";
import { Sink } from "../sink.ts";

class Terminal extends Sink {
  isTTY = false;
  columns = 120;
}

test.each([
  [0.4, "0s"],
  [59, "59s"],
  [61, "1m 01s"],
  [3_661, "1h 01m"],
  [90_000, "1d 01h"],
])("%d seconds are %s", (seconds, text) => {
  expect(printDuration(seconds)).toBe(text);
});

describe("a progress line", () => {
  const steps = (stream: Terminal, quiet = false) => {
    let time = 0;
    const line = progressLine({ steps: 100, epochs: 4, done: 10 }, { stream, quiet, now: () => time });
    for (let step = 11; step <= 20; step++) {
      time += 2000;
      line.update({ step, epoch: 1, figures: { loss: 1 / 3 }, images: 512, dataWait: 0.2 });
    }
    line.stop();
    line.stop();
  };

  test("shows a share, and the time left once that share says something", () => {
    const stream = new Terminal();
    let time = 0;
    const line = progressLine({ steps: 1, unit: "%", atMost: true }, { stream, interval: 0, now: () => time });
    for (const step of [0.005, 0.255, 1]) {
      time += 10_000;
      line.update({ step });
    }
    expect(stream.text.split("\n")[0]).toBe("0 %");
    expect(stream.text).toBe("0 %\n25 %  at most 58s left\n100 %\n");
  });

  test("does not take the first step's loading, nor a share that hardly moves, for what is to come", () => {
    const stream = new Terminal();
    let time = 0;
    const timed = (line: ReturnType<typeof progressLine>, seconds: number, step: number) => {
      time += 1000 * seconds;
      line.update({ step });
    };
    const steps = progressLine({ steps: 100 }, { stream, interval: 0, now: () => time });
    timed(steps, 60, 1);
    timed(steps, 1, 2);
    timed(steps, 1, 3);
    expect(stream.text).toBe("step 1/100\nstep 2/100  1m 38s left\nstep 3/100  1m 37s left\n");
    stream.text = "";
    const share = progressLine({ steps: 1, unit: "%", atMost: true }, { stream, interval: 0, now: () => time });
    timed(share, 10, 0.1);
    timed(share, 1, 0.1001); // an image that no attack breaks
    timed(share, 9, 0.5);
    timed(share, 0, 0.5); // nothing moves the share
    expect(stream.text).toMatch(
      /^10 % .*\n10 % {2}at most 1m 39s left\n50 % {2}at most 20s left\n50 % {2}at most 20s left\n$/,
    );
  });

  test("elsewhere than on a terminal is written every ten seconds and at the end", () => {
    const stream = new Terminal();
    steps(stream);
    expect(stream.text).toBe(
      [11, 16, 20]
        .map(
          (n, i) =>
            `epoch 1/4  step ${n}/100  loss 0.3333  256 images/s  data 10%${["", "  2m 48s left", "  2m 40s left"][i]}\n`,
        )
        .join(""),
    );
  });

  test("on a terminal is redrawn in place", () => {
    const stream = new Terminal();
    stream.isTTY = true;
    stream.columns = 40;
    steps(stream);
    expect(stream.text.split("\r")).toHaveLength(11);
    expect(stream.text.endsWith("\repoch 1/4  step 20/100  loss 0.3333  25\u001b[K\n")).toBe(true);
  });

  test("begins with a bar where there is room for one", () => {
    const stream = new Terminal();
    stream.isTTY = true;
    steps(stream);
    expect(stream.text.split("\r").at(-1)).toBe(
      "━━━━──────────────── epoch 1/4  step 20/100  loss 0.3333  256 images/s  data 10%  2m 40s left\u001b[K\n",
    );
  });

  test("is silent when quiet", () => {
    const stream = new Terminal();
    steps(stream, true);
    expect(stream.text).toBe("");
  });
});
