/**
 * Commands on a machine that lacks something: a disk that is full, a folder that is read-only, few files that may be
 * open (24 to 128, of which 128 must do), little memory (1 and 2 GB of addresses), a folder where the lock belongs, results that nobody can
 * write. Each must end with one sentence of the user's, and never with "a fault of advcl", a stack or exit code 0.
 *
 *   node dist/scripts/reliability/faults.js [--only NAME,NAME]
 *
 * Needs Linux: a disk of its own in a namespace of its own (unshare -rm), limits by the shell's ulimit. What can't be
 * tried is named. The last line is one JSON object { faults, tried: { NAME: { code, said } }, untried }; exit code 1
 * where any was a fault.
 */
import { spawnSync } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packageRoot } from "../../src/version.ts";
import { readFlags } from "../flags.ts";

const { values: flags } = readFlags(import.meta.url, { options: { only: { type: "string" } } });

const node = process.execPath;
const main = join(packageRoot, "dist", "src", "cli", "main.js");
const pretrain = `"${node}" "${main}" pretrain --dataset shapes --limit 64 --size 16 --width 4 --batch 32 --attack-steps 1 --knn-every 0 --radius 3 --no-clusters --epochs 2 --workers 0 --threads 1 --target portable`;

interface Trial {
  readonly name: string;
  /** For the shell. */
  readonly command: string;
  /** Whether it ends well: it may where the limit may not be reached, and must where that much is promised to do. */
  readonly ends?: "may" | "must";
}

const root = await mkdtemp(join(tmpdir(), "advcl-faults-"));
const disk = join(root, "disk");
await mkdir(disk);
await mkdir(join(root, "taken"));
await writeFile(join(root, "file"), "");

const onDisk = (options: string, command: string): string =>
  `unshare -rm sh -c 'mount -t tmpfs -o ${options} tmpfs "${disk}" && exec ${command}'`;
const limited = (limit: string, out: string): string => `ulimit ${limit}; exec ${pretrain} --out "${join(root, out)}"`;

const trials: readonly Trial[] = [
  { name: "full-disk", command: onDisk("size=100k", `${pretrain} --out "${disk}/run"`) },
  { name: "no-room-at-all", command: onDisk("size=4k,nr_inodes=3", `${pretrain} --out "${disk}/run"`) },
  { name: "read-only", command: onDisk("ro", `${pretrain} --out "${disk}/run"`) },
  { name: "results-to-a-full-device", command: `exec ${pretrain} --json --out "${root}/json" > /dev/full` },
  { name: "a-file-for-a-folder", command: `exec ${pretrain} --out "${root}/file"` },
  { name: "below-a-file", command: `exec ${pretrain} --out "${root}/file/run"` },
  {
    name: "a-folder-for-the-lock",
    command: `mkdir -p "${root}/taken/.lock-1-1-1-abc-here"; exec ${pretrain} --out "${root}/taken"`,
  },
  ...[24, 32, 48, 64, 96, 128].map((n) => ({
    name: `files-${n}`,
    command: limited(`-n ${n}`, `files${n}`),
    ...(n > 64 && { ends: n < 128 ? ("may" as const) : ("must" as const) }),
  })),
  ...[1, 2].map((gb) => ({
    name: `memory-${gb}-GB`,
    command: limited(`-v ${gb * 1_000_000}`, `memory${gb}`),
    ends: "may" as const,
  })),
];

const tried: Record<string, { readonly code: number | null; readonly said: string }> = {};
const untried: string[] = [];
const faults: string[] = [];
const wanted = flags.only?.split(",");
const namespaces = spawnSync("sh", ["-c", onDisk("size=1m", "true")]).status === 0;
try {
  for (const { name, command, ends } of trials) {
    if (wanted !== undefined && !wanted.includes(name)) continue;
    if (command.startsWith("unshare") && !namespaces) {
      untried.push(name);
      continue;
    }
    const { status, stderr } = spawnSync("sh", ["-c", command], { encoding: "utf8", timeout: 300_000 });
    const errors = stderr.split("\n").filter((line) => line.startsWith("error: "));
    const said = errors.join(" / ");
    tried[name] = { code: status, said };
    const isSentence =
      (status === 1 || status === 2) && errors.length === 1 && !/fault of advcl|internal:|\n\s+at /.test(stderr);
    if (!(isSentence && ends !== "must") && !(ends !== undefined && status === 0)) faults.push(name);
    console.error(`${name}: ${status} ${said || stderr.trim().split("\n").at(-1)}`);
  }
  console.log(JSON.stringify({ faults, tried, untried }));
} finally {
  await rm(root, { recursive: true, force: true });
}
process.exit(faults.length > 0 ? 1 : 0);
