import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { RequestError } from "../../src/errors.ts";
import { readSealed, writeSealed } from "../../src/files/seal.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "seal-"));
});
afterAll(() => rm(folder, { recursive: true }));

const content = { accuracy: 0.8125, robustAccuracy: 0, skipped: undefined, lost: Number.NaN, 7: "seven", names: ["ä"] };

test("what was written comes back; every other bit of it is refused", async () => {
  const path = join(folder, "results.json");
  expect(await readSealed(path)).toBeUndefined();
  await writeSealed(path, content);
  expect(await readSealed(path)).toEqual({ accuracy: 0.8125, robustAccuracy: 0, lost: null, 7: "seven", names: ["ä"] });
  const bytes = await readFile(path);
  let refused = 0;
  let same = 0;
  for (let at = 0; at < bytes.length; at++) {
    const changed = Buffer.from(bytes);
    changed[at]! ^= 1;
    await writeFile(path, changed);
    const found = await readSealed(path).catch((error: unknown) => error);
    if (found instanceof RequestError) refused++;
    // Blanks between values are no content.
    else if (JSON.stringify(found) === JSON.stringify(JSON.parse(JSON.stringify(content)))) same++;
  }
  expect(refused + same).toBe(bytes.length);
  expect(same).toBeLessThan(30);
});

test("figures that were changed by hand are refused with what makes them again", async () => {
  const path = join(folder, "hand.json");
  await writeSealed(path, content);
  await writeFile(path, (await readFile(path, "utf8")).replace('"robustAccuracy": 0', '"robustAccuracy": 1'));
  await expect(readSealed(path, "remove it")).rejects.toThrow(
    new RequestError(`${path} was changed after it was written (its sha256 is another's); restore it, or remove it`),
  );
});

test.each(["\u0001", '{"note": "a\u0001b"}', "null", "[]", "7", '{"sha256": 1}', ""])("%j is damaged", async (text) => {
  const path = join(folder, "compare.json");
  await writeFile(path, text);
  await expect(readSealed(path, "give another --out")).rejects.toThrow(
    new RequestError(
      `${path} ${text.includes("sha256") ? "was changed after it was written (its sha256 is another's); restore it, or" : "is damaged;"} give another --out`,
    ),
  );
});
