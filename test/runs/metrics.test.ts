import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { AppendFile } from "../../src/files/append-file.ts";
import { MetricsWriter, readMetrics } from "../../src/runs/metrics.ts";
import { crc32c, TensorBoardWriter } from "../../src/runs/tensorboard.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metrics-"));
});
afterAll(() => rm(folder, { recursive: true }));

const run = () => ({ appendTo: (name: string) => new AppendFile(join(folder, name), Number.POSITIVE_INFINITY) });

describe("metrics", () => {
  test("are JSON lines; a number that is not finite is null", async () => {
    const writer = new MetricsWriter(run());
    writer.write({ step: 1, epoch: 0 }, { loss: 2.5, lr: 0.5 }, { seconds: 0.25 });
    writer.write({ step: 2, epoch: 0 }, { loss: Number.NaN, lr: 0.5 });
    const path = join(folder, "metrics.jsonl");
    expect(await readFile(path, "utf8")).toBe(
      '{"step":1,"epoch":0,"loss":2.5,"lr":0.5}\n{"step":2,"epoch":0,"loss":null,"lr":0.5}\n',
    );
    expect(await readFile(join(folder, "timing.jsonl"), "utf8")).toBe('{"step":1,"epoch":0,"seconds":0.25}\n');
    await writeFile(path, '{"step":3', { flag: "a" });
    expect(await readMetrics(path)).toEqual([
      { step: 1, epoch: 0, loss: 2.5, lr: 0.5 },
      { step: 2, epoch: 0, loss: null, lr: 0.5 },
    ]);
  });

  test("a missing file and a damaged line are named", async () => {
    const path = join(folder, "damaged.jsonl");
    await expect(readMetrics(path)).rejects.toThrow(`cannot read ${path}: it does not exist; check the path`);
    await writeFile(path, '{"step":1,"epoch":0}\n\u0000\n');
    await expect(readMetrics(path)).rejects.toThrow(`${path} is damaged: line 2 is not JSON; remove that line`);
    for (const line of [
      "null",
      "[]",
      "7",
      '{"step":1}',
      '{"step":null,"epoch":0}',
      '{"step":1,"epoch":0,"loss":"low"}',
    ]) {
      await writeFile(path, `{"step":1,"epoch":0}\n${line}\n`);
      await expect(readMetrics(path)).rejects.toThrow(`${path} is damaged: line 2 is not a step, an epoch and figures`);
    }
  });
});

describe("TensorBoard events", () => {
  // RFC 3720, appendix B.4.
  test.each([
    ["", 0],
    ["123456789", 0xe3069283],
    ["\0".repeat(32), 0x8a9136aa],
  ])("CRC-32C of %j", (text, crc) => {
    expect(crc32c(Buffer.from(text))).toBe(crc);
  });

  test("are the bytes that TensorFlow writes", async () => {
    const path = join(folder, "events.out.tfevents.test");
    new TensorBoardWriter(new AppendFile(path, 0), () => 1500).write(7, { loss: 0.5 });
    new TensorBoardWriter(new AppendFile(path, Number.POSITIVE_INFINITY), () => 2500).write(8, { loss: 0.25 });
    expect(await readFile(path)).toEqual(await readFile(new URL("../fixtures/tensorboard.tfevents", import.meta.url)));
  });
});
