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
    const line = progressLine({ steps: 1, unit: "%" }, { stream, interval: 0, now: () => time });
    for (const step of [0.005, 0.255, 1]) {
      time += 10_000;
      line.update({ step });
    }
    expect(stream.text.split("\n")[0]).toBe("0 %");
    expect(stream.text).toMatch(/\n25 % {2}.* left\n100 %\n$/);
  });

  test("elsewhere than on a terminal is written every ten seconds and at the end", () => {
    const stream = new Terminal();
    steps(stream);
    expect(stream.text).toBe(
      [11, 16, 20]
        .map(
          (n, i) =>
            `epoch 1/4  step ${n}/100  loss 0.3333  256 images/s  data 10%  ${["2m 58s", "2m 48s", "2m 40s"][i]} left\n`,
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

  test("is silent when quiet", () => {
    const stream = new Terminal();
    steps(stream, true);
    expect(stream.text).toBe("");
  });
});
