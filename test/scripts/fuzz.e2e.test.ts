import { spawnSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { judge, type Outcome, type Subject } from "../../scripts/reliability/fuzz.ts";
import { RequestError } from "../../src/errors.ts";
import { built } from "../built.ts";

test("damaged files are refused, give the same content, or are of a format without a checksum (short form)", () => {
  const script = built("scripts/reliability/fuzz-readers.js");
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, "--count", "1040", "--seed", "20"], {
    encoding: "utf8",
  });
  expect([status, stderr.match(/faults [1-9].*/g)]).toEqual([0, null]);
  const { outcomes, withoutChecksum } = JSON.parse(stdout) as {
    outcomes: Record<string, Record<Outcome, number>>;
    withoutChecksum: string[];
  };
  expect(Object.keys(outcomes)).toHaveLength(26);
  for (const [name, { refused, same, other, fault }] of Object.entries(outcomes)) {
    expect([name, refused + same + other, fault]).toEqual([name, 40, 0]);
    expect(refused).toBeGreaterThan(0);
    if (!withoutChecksum.includes(name)) expect([name, other]).toEqual([name, 0]);
  }
  expect(["torch", "torch-deflated", "tar.gz", "png"].filter((name) => withoutChecksum.includes(name))).toEqual([]);
});

test("what is no sentence, and other content in spite of a checksum, are faults", async () => {
  const root = await mkdtemp(join(tmpdir(), "advcl-judge-"));
  const subject = (checksum: Subject["checksum"], read: Subject["read"]): Subject => ({
    name: "",
    checksum,
    file: "f",
    read,
  });
  const outcome = async (checksum: Subject["checksum"], read: Subject["read"]): Promise<Outcome> =>
    (await judge(root, subject(checksum, read), "sound", new Uint8Array(1))).outcome;
  expect(await outcome("whole", async () => "sound")).toBe("same");
  expect(await outcome("whole", async () => "else")).toBe("fault");
  expect(await outcome("headers", async () => "else")).toBe("other");
  expect(await outcome("none", () => Promise.reject(new RequestError("it is damaged")))).toBe("refused");
  expect(await outcome("none", () => Promise.reject(new TypeError("x is undefined")))).toBe("fault");
  await rm(root, { recursive: true });
});
