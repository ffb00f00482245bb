/** The encoders and classifiers that ship with the package, by name. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../version.ts";

const shipped = join(packageRoot, "artifacts", "encoders");
const suffix = ".safetensors";

/** Names that stand for a run wherever one is begun from: `--from NAME`. */
export const shippedNames = (folder: string = shipped): readonly string[] =>
  existsSync(folder)
    ? readdirSync(folder)
        .filter((name) => name.endsWith(suffix))
        .map((name) => name.slice(0, -suffix.length))
        .sort()
    : [];

/** The file that a name stands for; undefined where it is none, or something else lies under that path. */
export const shippedFile = (name: string, folder: string = shipped): string | undefined =>
  !existsSync(name) && shippedNames(folder).includes(name) ? join(folder, `${name}${suffix}`) : undefined;
