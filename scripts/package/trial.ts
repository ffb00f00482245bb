/**
 * The package as a user gets it: packed, installed in an empty folder by each package manager on each Node, and there the
 * library's lines of the README run and, with --types, pass a strict TypeScript that checks every declaration (skipLibCheck false).
 *
 *   npm run build && node dist/scripts/package/trial.js --out FOLDER [--managers npm,pnpm,yarn] [--nodes 20,22,24] [--types]
 *
 * Managers and Nodes come from the npm registry (pnpm, yarn 4, node-PLATFORM-ARCH); `pnpm@10` and `yarn@1` name a version. The
 * folder is kept: each installation with its log. A line a trial says the versions, the seconds, what was warned of and what came out.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join, resolve } from "node:path";
import { RequestError, RunError } from "../../src/errors.ts";
import { packageRoot } from "../../src/version.ts";
import { readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    out: { type: "string" },
    managers: { type: "string", default: "npm,pnpm,yarn" },
    nodes: { type: "string", default: "20,22,24" },
    types: { type: "boolean", default: false },
  },
});

interface Ran {
  readonly status: number | null;
  /** stdout and stderr. */
  readonly text: string;
  readonly stdout: string;
  readonly seconds: number;
}

const windows = process.platform === "win32";

/** Runs a command in a folder, with a folder of programs first in the path. */
const run = (command: string, args: readonly string[], cwd: string, programs?: string): Ran => {
  const began = performance.now();
  // What npm run tells its children would reach the package managers as settings.
  const clean = Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name));
  const env = { ...Object.fromEntries(clean), CI: "1", NO_COLOR: "1" };
  const path = programs === undefined ? process.env.PATH : `${programs}${delimiter}${process.env.PATH}`;
  const { status, stdout, stderr } = spawnSync(command, args, {
    ...{ cwd, env: { ...env, PATH: path }, encoding: "utf8", shell: windows, maxBuffer: 1 << 28 },
  });
  return { status, stdout, text: `${stdout}${stderr}`, seconds: (performance.now() - began) / 1000 };
};

const must = (what: string, ran: Ran): Ran => {
  if (ran.status !== 0) throw new RunError(`${what} failed (exit code ${ran.status}): ${ran.text.slice(-2000)}`);
  return ran;
};

/** Installs a program of the registry in a folder of its own; returns where its commands lie. */
const tool = (tools: string, name: string, folder = join("node_modules", ".bin")): string => {
  const own = join(tools, name.replaceAll("/", "-"));
  if (!existsSync(own)) {
    mkdirSync(own, { recursive: true });
    writeFileSync(join(own, "package.json"), '{ "private": true }\n');
    must(`npm install ${name}`, run("npm", ["install", "--no-fund", "--no-audit", "--ignore-scripts", name], own));
  }
  return join(own, folder);
};

const nodeOf = (tools: string, version: string): string => {
  const name = `node-${windows ? "win" : process.platform}-${process.arch}`;
  return tool(tools, `${name}@${version}`, join("node_modules", name, "bin"));
};

/**
 * The command that adds packages without their install scripts, of which none is needed (docs/library.md), and the
 * folder of its program where that is not npm's own.
 */
const managerOf = (tools: string, manager: string): { readonly add: readonly string[]; readonly programs?: string } => {
  const [name = "", version] = manager.split("@");
  if (name === "npm") return { add: ["npm", "install", "--ignore-scripts", "--no-fund", "--no-audit"] };
  if (name === "pnpm")
    return { add: ["pnpm", "add", "--ignore-scripts"], programs: tool(tools, `pnpm@${version ?? "latest"}`) };
  if (name !== "yarn") throw new RequestError(`--managers ${manager}: choose among npm, pnpm and yarn`);
  if (version === "1") return { add: ["yarn", "add", "--ignore-scripts"], programs: tool(tools, "yarn@1") };
  return {
    add: ["yarn", "add", "--mode=skip-build"],
    programs: tool(tools, `@yarnpkg/cli-dist@${version ?? "latest"}`),
  };
};

/** Lines that a user would read as a warning or an error. */
const frightening = (text: string): string[] =>
  text
    .split("\n")
    .filter((line) => /warn|deprecat|error|unmet|vulnerab|ignored build/i.test(line) && !/AdvclWarning/.test(line));

const strict = {
  compilerOptions: {
    ...{ strict: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, skipLibCheck: false },
    ...{ module: "nodenext", target: "es2023", noEmit: true, types: ["node"] },
  },
};

const typed = `import { evaluate, type LoadedClassifier, linf, loadClassifier, type Plugin, RequestError, type ThreatModel } from "advcl";

const own: ThreatModel = { ...linf(8 / 255), name: "mine" };
export const plugin: Plugin = ({ crossEntropy }) => ({
  losses: [{ name: "mine", loss: (logits, labels) => crossEntropy(logits, labels, "none") }],
});
const loaded: Promise<LoadedClassifier> = loadClassifier("classifier.onnx");
export const right = async (): Promise<number | undefined> =>
  (await evaluate({ model: (await loaded).source, attacks: ["clean"], dataset: "shapes" })).attacks.clean?.accuracy;
export const wrong = new RequestError(own.name);
`;

/** One installation: what it warned of, and what the example printed. */
const attempt = (out: string, archive: string, manager: string, version: string): boolean => {
  const tools = join(out, "tools");
  const node = nodeOf(tools, version);
  const { add, programs } = managerOf(tools, manager);
  const folder = join(out, `${manager.replace("@", "-")}-node${version}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "name": "trial", "private": true, "type": "module" }\n');
  if (manager.startsWith("yarn")) writeFileSync(join(folder, ".yarnrc.yml"), "nodeLinker: node-modules\n");
  const path = programs === undefined ? node : `${node}${delimiter}${programs}`;
  const [command = "", ...args] = add;
  const versions = [
    must("node", run("node", ["--version"], folder, path)),
    must(manager, run(command, ["--version"], folder, path)),
  ];
  const [nodeVersion, managerVersion] = versions.map(({ stdout }) => stdout.trim());
  const installed = run(command, [...args, archive], folder, path);
  writeFileSync(join(folder, "install.log"), installed.text);
  copyFileSync(join(packageRoot, "examples", "advcl.mjs"), join(folder, "advcl.mjs"));
  const example = run("node", ["advcl.mjs"], folder, path);
  const help = run("node", [join("node_modules", "advcl", "dist", "src", "cli", "main.js"), "--version"], folder, path);
  let types = "";
  if (values.types) {
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(strict, null, 2));
    writeFileSync(join(folder, "use.ts"), typed);
    must("installing TypeScript", run(command, [...args, "-D", "typescript@5", "@types/node@20"], folder, path));
    const checked = run("node", [join("node_modules", "typescript", "bin", "tsc")], folder, path);
    types = checked.status === 0 ? ", types pass" : `, types fail: ${checked.text.slice(0, 500)}`;
  }
  const result = /^\{.*\}$/m.exec(example.stdout)?.[0];
  const well = installed.status === 0 && result !== undefined && help.status === 0 && !types.includes("fail");
  const warned = frightening(installed.text);
  console.log(
    `${well ? "right" : "WRONG"}: ${manager} ${managerVersion}, Node ${nodeVersion}: installed in ${installed.seconds.toFixed(0)} s, example in ${example.seconds.toFixed(0)} s${types}, ` +
      `${warned.length === 0 ? "no warnings" : `${warned.length} lines of warnings:\n    ${warned.join("\n    ")}`}`,
  );
  if (!well) console.log(installed.status === 0 ? example.text.slice(-1500) : installed.text.slice(-1500));
  return well;
};

if (values.out === undefined) throw new RequestError("--out is missing: give a folder for the trials");
const out = resolve(values.out);
mkdirSync(out, { recursive: true });
for (const name of readdirSync(out).filter((file) => file.endsWith(".tgz"))) rmSync(join(out, name));
must("npm pack", run("npm", ["pack", "--ignore-scripts", "--pack-destination", out], packageRoot));
const [packed = ""] = readdirSync(out).filter((name) => name.endsWith(".tgz"));
const archive = join(out, packed);
let failed = 0;
for (const version of values.nodes.split(","))
  for (const manager of values.managers.split(",")) if (!attempt(out, archive, manager, version)) failed++;
if (failed > 0) throw new RunError(`${failed} trials failed; their logs lie in ${dirname(archive)}`);
