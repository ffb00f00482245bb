/**
 * Whether another checkout of this project, such as the one before a change, computes the same bytes: one clustering, one pretraining,
 * an SLF and an AFF finetuning, one evaluation and exports to ONNX, int8 and safetensors, all tiny, on generated images, by the built
 * command of each checkout in a folder of its own. Every file that they leave, and the last line of each command, is compared.
 *
 *   npm run build && node dist/scripts/parity/same-bytes.js BEFORE_CHECKOUT [--out FOLDER] [--threads 1]
 *
 * What tells the time or the program is set aside before, and the table says where: seconds and rates, TensorBoard's wall times, the
 * commit and the versions. With --out the results stay there, in before/ and after/. The last line is one JSON object
 * { same, files: { name: { before, after, setAside } } } with SHA-256 sums; exit code 1 where a file differs or is missing.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative, resolve, sep } from "node:path";
import { RequestError, RunError } from "../../src/errors.ts";
import { packageRoot } from "../../src/version.ts";
import { existingPath, readFlags } from "../flags.ts";

const { values: flags, positionals } = readFlags(import.meta.url, {
  allowPositionals: true,
  options: { out: { type: "string" }, threads: { type: "string", default: "1" } },
});

/** The commands in their order; each takes what those before it made. `OUT` stands for the place of its results. */
const commands: readonly { readonly out: string; readonly line: string }[] = [
  { out: "labels.safetensors", line: "cluster --teacher teacher.onnx --dataset shapes --limit 64 --clusters 2,5" },
  {
    out: "encoder",
    line:
      "pretrain --dataset shapes --width 4 --batch 8 --limit 32 --epochs 1 --lr 0.02 --attack-steps 2 --clusters 2,5 " +
      "--pseudo-labels labels.safetensors --knn-every 1",
  },
  {
    out: "slf",
    line: "finetune --scheme slf --from encoder --dataset shapes --batch 8 --limit 32 --test-limit 16 --epochs 1",
  },
  {
    out: "aff",
    line: "finetune --scheme aff --from encoder --dataset shapes --batch 8 --limit 32 --test-limit 16 --epochs 1 --attack-steps 2",
  },
  {
    out: "evaluation",
    line: "evaluate --model slf --dataset shapes --limit 64 --batch 16 --attacks clean,pgd5,apgd-ce --iterations 5 --save-adversarial",
  },
  { out: "classifier.onnx", line: "export --from aff --limit 16" },
  { out: "classifier.int8.onnx", line: "export --from aff --precision int8 --limit 16 --calibration-images 8" },
  { out: "encoder.safetensors", line: "export --from encoder --format safetensors" },
];

/** The built command of a checkout. */
const commandOf = async (checkout: string): Promise<string> => {
  const { bin } = JSON.parse(await readFile(join(checkout, "package.json"), "utf8")) as { bin?: { advcl?: string } };
  const command = join(checkout, bin?.advcl ?? "");
  if (bin?.advcl === undefined || !existsSync(command))
    throw new RequestError(`${checkout} has no built advcl; run npm run build there`);
  return command;
};

/** Runs every command of a checkout in a folder, and keeps the last line of each beside its results. */
const runAll = async (checkout: string, folder: string): Promise<void> => {
  const command = await commandOf(checkout);
  await mkdir(folder, { recursive: true });
  await copyFile(join(packageRoot, "test", "fixtures", "teacher", "net.onnx"), join(folder, "teacher.onnx"));
  const common = ["--seed", "3", "--provider", "cpu", "--threads", flags.threads, "--json", "--quiet"];
  for (const { line, out } of commands) {
    console.error(`${checkout}: ${line}`);
    const args = [command, ...line.split(" "), "--out", out, ...common];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: folder, encoding: "utf8" });
    if (status !== 0) throw new RunError(`advcl ${line} of ${checkout} ended with ${status}: ${stderr.trim()}`);
    await writeFile(join(folder, `${out}.stdout.json`), `${stdout.trim().split("\n").at(-1)}\n`);
  }
};

/** What is set aside in texts: its name and where it stands; the group `kept` stays. */
const varying: readonly { readonly name: string; readonly pattern: RegExp }[] = [
  { name: "seconds and rates", pattern: /(?<kept>"(?:\w*[sS]econds|dataWait|imagesPerSecond)": ?)-?[\d.e+-]+/g },
  { name: "images a second", pattern: /(?<kept><b>)\d+(?=<\/b><span>images a second)/g },
  { name: "commit", pattern: /(?<kept>^commit: ).*$/gm },
  { name: "commit", pattern: /(?<kept><span>commit<\/span><b>)[^<]*/g },
  { name: "versions", pattern: /(?<kept>^ {2}(?:advcl|node|onnxruntime-node): ).*$/gm },
];

/**
 * Sets the wall times of a TensorBoard file to 0. A record is its length (8 bytes), a checksum (4), the event and a checksum (4); an
 * event begins with its wall time, field 1, a double.
 */
const withoutWallTimes = (bytes: Buffer): Buffer => {
  const cleared = Buffer.from(bytes);
  for (let at = 0; at < cleared.length; ) {
    const length = Number(cleared.readBigUInt64LE(at));
    const event = at + 12;
    if (cleared[event] !== 0x09) throw new RunError("a TensorBoard event does not begin with its wall time");
    cleared.fill(0, event + 1, event + 9);
    cleared.fill(0, event + length, event + length + 4);
    at = event + length + 4;
  }
  return cleared;
};

/** An integer of protobuf at a place: seven bits a byte, the lowest first; and the place behind it. */
const varint = (bytes: Buffer, start: number): readonly [value: number, end: number] => {
  let [value, at, scale] = [0, start, 1];
  for (; (bytes[at] ?? 0) >= 128; at++, scale *= 128) value += ((bytes[at] ?? 0) - 128) * scale;
  return [value + (bytes[at] ?? 0) * scale, at + 1];
};

/** An ONNX file without what its metadata says of the program: the entries `commit` and `versions` of ModelProto's field 14. */
const withoutProgram = (bytes: Buffer): Buffer => {
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const [tag, value] = varint(bytes, at);
    // Fields of a model are integers (wire type 0) or begin with their length (2).
    const [number, behind] = varint(bytes, value);
    const end = (tag & 7) === 0 ? behind : behind + number;
    // An entry begins with its key: field 1, its length, the text.
    const key = tag >> 3 === 14 ? bytes.subarray(behind + 2, behind + 2 + (bytes[behind + 1] ?? 0)).toString() : "";
    if (key !== "commit" && key !== "versions") parts.push(bytes.subarray(at, end));
    at = end;
  }
  return Buffer.concat(parts);
};

/** A file's bytes without what tells the time or the program, and what that was. */
const comparable = (name: string, bytes: Buffer): { readonly bytes: Buffer; readonly setAside: readonly string[] } => {
  if (/tfevents/.test(name)) return { bytes: withoutWallTimes(bytes), setAside: ["wall times"] };
  if (name.endsWith(".onnx")) return { bytes: withoutProgram(bytes), setAside: ["commit, versions"] };
  if (!/\.(jsonl?|ya?ml|html)$/.test(name)) return { bytes, setAside: [] };
  let text = bytes.toString("utf8");
  const setAside = new Set<string>();
  for (const { name: what, pattern } of varying) {
    const cleared = text.replace(pattern, "$<kept>…");
    if (cleared !== text) setAside.add(what);
    text = cleared;
  }
  return { bytes: Buffer.from(text), setAside: [...setAside] };
};

interface Compared {
  /** SHA-256 of what is compared; undefined where the file is missing. */
  readonly before: string | undefined;
  readonly after: string | undefined;
  readonly setAside: readonly string[];
}

const filesIn = async (folder: string): Promise<string[]> =>
  (await readdir(folder, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll(sep, "/"));

const compareFolders = async (before: string, after: string): Promise<ReadonlyMap<string, Compared>> => {
  const names = [...new Set([...(await filesIn(before)), ...(await filesIn(after))])].sort();
  const sum = async (folder: string, name: string) => {
    const path = join(folder, name);
    if (!existsSync(path)) return { sha256: undefined, setAside: [] };
    const { bytes, setAside } = comparable(name, await readFile(path));
    return { sha256: createHash("sha256").update(bytes).digest("hex"), setAside };
  };
  const rows = new Map<string, Compared>();
  for (const name of names) {
    const [first, second] = [await sum(before, name), await sum(after, name)];
    const setAside = [...new Set([...first.setAside, ...second.setAside])];
    rows.set(name, { before: first.sha256, after: second.sha256, setAside });
  }
  return rows;
};

const isSame = ({ before, after }: Compared): boolean => before !== undefined && before === after;

const printTable = (rows: ReadonlyMap<string, Compared>): void => {
  const width = Math.max(...[...rows.keys()].map((name) => name.length));
  const short = (sha256: string | undefined) => (sha256?.slice(0, 16) ?? "missing").padEnd(16);
  console.log(`${"file".padEnd(width)}  ${"before".padEnd(16)}  ${"after".padEnd(16)}  result     without`);
  for (const [name, row] of rows)
    console.log(
      `${name.padEnd(width)}  ${short(row.before)}  ${short(row.after)}  ${isSame(row) ? "same     " : "DIFFERENT"}  ${row.setAside.join(", ")}`.trimEnd(),
    );
};

const [checkout, ...rest] = positionals;
if (checkout === undefined || rest.length > 0) throw new RequestError("give one folder: the checkout to compare with");
const other = existingPath("BEFORE_CHECKOUT", checkout);
const folder = flags.out === undefined ? await mkdtemp(join(tmpdir(), "advcl-same-bytes-")) : resolve(flags.out);
try {
  const [before, after] = [join(folder, "before"), join(folder, "after")];
  for (const path of [before, after])
    if (existsSync(path)) throw new RequestError(`${path} is there already; give --out another folder`);
  await runAll(other, before);
  await runAll(packageRoot, after);
  const rows = await compareFolders(before, after);
  printTable(rows);
  const same = [...rows.values()].every(isSame);
  console.log(JSON.stringify({ same, files: Object.fromEntries(rows) }));
  process.exitCode = same ? 0 : 1;
} finally {
  if (flags.out === undefined) await rm(folder, { recursive: true });
}
