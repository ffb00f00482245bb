/**
 * Writes docs/api.md, the reference of what the library exports, from its built declarations. A test fails where it is stale.
 *
 *   node dist/scripts/docs/api-reference.js
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../../src/version.ts";
import { readFlags } from "../flags.ts";
import { apiReference } from "./api.ts";

readFlags(import.meta.url, {});
const path = join(packageRoot, "docs", "api.md");
writeFileSync(path, apiReference());
console.log(path);
