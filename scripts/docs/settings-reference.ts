/**
 * Writes docs/settings.md, the reference of every command's settings, from their schemas. A test fails where it is stale.
 *
 *   node dist/scripts/docs/settings-reference.js
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../../src/version.ts";
import { readFlags } from "../flags.ts";
import { settingsReference } from "./reference.ts";

readFlags(import.meta.url, {});
const path = join(packageRoot, "docs", "settings.md");
writeFileSync(path, settingsReference());
console.log(path);
