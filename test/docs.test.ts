/** Documents that are made by programs. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { settingsReference } from "../scripts/docs/reference.ts";
import { packageRoot } from "../src/version.ts";

test("docs/settings.md is what the schemas say (node dist/scripts/docs/settings-reference.js)", () => {
  expect(readFileSync(join(packageRoot, "docs/settings.md"), "utf8")).toBe(settingsReference());
});
