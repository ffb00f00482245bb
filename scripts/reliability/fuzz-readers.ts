/**
 * Damaged files for every reader: weights, arrays, labels, datasets, images, models, checkpoints, logs and configs, each changed
 * at random in the ways that disks, networks and malice change files. Each must be refused in a sentence, give the same
 * content, or be of a format that has no checksum to notice by; those formats are named. The prototypes are frozen, so
 * that no file reaches them.
 *
 *   node dist/scripts/reliability/fuzz-readers.js [--count 10000] [--seed N] [--only NAME] [--keep FOLDER]
 *
 * The seed is fresh each time where none is given, and printed. Faults (another error than a sentence, other content in
 * spite of a checksum, more than 10 s) are printed, and kept in --keep as files. The last line is one JSON object
 * { seed, count, outcomes: { NAME: { refused, same, other, fault } }, withoutChecksum }; exit code 1 where any was a fault.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { random } from "../../src/data/random.ts";
import { RequestError } from "../../src/errors.ts";
import { readFlags } from "../flags.ts";
import { judge, mutate, type Outcome } from "./fuzz.ts";
import { prepare } from "./subjects.ts";

const { values: flags } = readFlags(import.meta.url, {
  options: {
    count: { type: "string", default: "10000" },
    seed: { type: "string" },
    only: { type: "string" },
    keep: { type: "string" },
  },
});
const seed = flags.seed === undefined ? Date.now() : Number(flags.seed);
const count = Number(flags.count);
if (!Number.isSafeInteger(seed) || seed < 0)
  throw new RequestError(`--seed is ${flags.seed} but must be a whole number`);

const root = await mkdtemp(join(tmpdir(), "advcl-fuzz-"));
let faults = 0;
try {
  const all = await prepare(root);
  const subjects = flags.only === undefined ? all : all.filter(({ name }) => name === flags.only);
  if (subjects.length === 0)
    throw new RequestError(`--only is ${flags.only}; there are ${all.map(({ name }) => name).join(", ")}`);
  const outcomes = new Map<string, Record<Outcome, number>>();
  console.error(`seed ${seed}`);
  // What a file makes a reader write into a prototype is an error then, not a change of every object.
  for (const { prototype } of [Object, Array, Function, Map, Set, Promise, Uint8Array, String, Number])
    Object.freeze(prototype);
  for (const [s, subject] of subjects.entries()) {
    const folder = join(root, subject.name);
    const bytes = await readFile(join(folder, subject.file));
    const sound = await subject.read(folder);
    const tally: Record<Outcome, number> = { refused: 0, same: 0, other: 0, fault: 0 };
    // As many for each, and one more for the first where the count does not divide.
    const share = Math.floor(count / subjects.length) + Number(s < count % subjects.length);
    for (let i = 0; i < share; i++) {
      const damaged = mutate(bytes, random(seed, 0, i, `fuzz:${subject.name}`));
      const { outcome, message } = await judge(root, subject, sound, damaged);
      tally[outcome]++;
      if (outcome !== "fault") continue;
      faults++;
      console.error(`${subject.name} ${i}: ${message}`);
      if (flags.keep === undefined) continue;
      await mkdir(flags.keep, { recursive: true });
      await writeFile(join(flags.keep, `${subject.name}-${seed}-${i}`), damaged);
    }
    outcomes.set(subject.name, tally);
    const { refused, same, other, fault } = tally;
    console.error(
      `${subject.name.padEnd(16)} refused ${refused}, same content ${same}, other content ${other}, faults ${fault} (checksum: ${subject.checksum})`,
    );
  }
  const withoutChecksum = subjects.filter(({ checksum }) => checksum !== "whole").map(({ name }) => name);
  console.log(JSON.stringify({ seed, count, outcomes: Object.fromEntries(outcomes), withoutChecksum }));
} finally {
  await rm(root, { recursive: true });
}
process.exit(faults > 0 ? 1 : 0);
