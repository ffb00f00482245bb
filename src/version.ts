import { execFile } from "node:child_process";
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const findRoot = (folder: string): string =>
  existsSync(join(folder, "package.json")) || dirname(folder) === folder ? folder : findRoot(dirname(folder));

/** The folder of this package: that of package.json, whether run from sources or from dist. */
export const packageRoot: string = findRoot(dirname(fileURLToPath(import.meta.url)));

const versionIn = (path: string): string => (JSON.parse(readFileSync(path, "utf8")) as { version: string }).version;

/** This package's version. */
export const version = (): string => versionIn(join(packageRoot, "package.json"));

/** Versions that decide what a run computes. */
export const versions = (): { advcl: string; node: string; "onnxruntime-node": string } => ({
  advcl: version(),
  node: process.versions.node,
  "onnxruntime-node": versionIn(createRequire(import.meta.url).resolve("onnxruntime-node/package.json")),
});

const git = (...args: string[]): Promise<string | undefined> =>
  new Promise((done) => {
    execFile("git", ["-C", packageRoot, ...args], (error, stdout) => done(error ? undefined : stdout.trim()));
  });

/**
 * The git commit of this package, with `-dirty` where tracked files differ from it; null where the package is not a git
 * checkout of its own.
 */
export const gitCommit = async (): Promise<string | null> => {
  const [top, commit, changes] = await Promise.all([
    git("rev-parse", "--show-toplevel"),
    git("rev-parse", "HEAD"),
    git("status", "--porcelain", "--untracked-files=no"),
  ]);
  if (top === undefined || commit === undefined || realpathSync(top) !== realpathSync(packageRoot)) return null;
  return changes === "" ? commit : `${commit}-dirty`;
};
