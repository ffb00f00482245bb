/**
 * Makes an encoder or a classifier that ships: NAME.safetensors, by which `--from NAME` begins, NAME.onnx, and NAME.md, its card.
 *
 *     npm run build
 *     node dist/scripts/encoders/ship.js --name NAME --run RUN --data PATH --licence TEXT [--dataset cifar10] [--limit 1000]
 *       [--images "CIFAR-10, 50,000 images"] [--before RUN ...] [--judge TITLE=RUN ...] [--autoattack]
 *       [--out artifacts/encoders]
 *
 * RUN is what ships, --before the runs that it came from, the first of all first. Each classifier of --judge is attacked on the
 * same test images: of an encoder, linear heads on it (SLF) and on the encoders that it stands beside. Every figure of the card
 * comes from here.
 */
import { join } from "node:path";
import { commandOf } from "../../src/compare/pipeline.ts";
import { markdownTable } from "../../src/compare/table.ts";
import type { DatasetName } from "../../src/data/dataset.ts";
import { exportModel } from "../../src/deploy/export.ts";
import { RequestError } from "../../src/errors.ts";
import { printRadius } from "../../src/evaluate/attacks/ball.ts";
import { evaluate } from "../../src/evaluate/evaluate.ts";
import { writeFileAtomic } from "../../src/files/atomic.ts";
import { loadPlugins, pickNamed } from "../../src/plugins/plugins.ts";
import { type LoadedRun, loadRun } from "../../src/runs/network.ts";
import type { RunConfig } from "../../src/runs/run-folder.ts";
import { shippedFile } from "../../src/runs/shipped.ts";
import { readObject } from "../../src/settings/resolve.ts";
import { finetune } from "../../src/train/finetune.ts";
import { type SchemeName, schemes } from "../../src/train/finetune-settings.ts";
import { pretrain } from "../../src/train/pretrain.ts";
import { readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    name: { type: "string" },
    run: { type: "string" },
    before: { type: "string", multiple: true, default: [] },
    judge: { type: "string", multiple: true, default: [] },
    dataset: { type: "string", default: "cifar10" },
    data: { type: "string" },
    licence: { type: "string" },
    images: { type: "string" },
    limit: { type: "string", default: "1000" },
    autoattack: { type: "boolean", default: false },
    out: { type: "string", default: join("artifacts", "encoders") },
  },
});

const required = (flag: "name" | "run" | "licence"): string => {
  const value = values[flag];
  if (value === undefined) throw new RequestError(`--${flag} is missing; see --help`);
  return value;
};
const [name, from, licence] = [required("name"), required("run"), required("licence")];
const { dataset, data, limit, out } = values;
const at = (suffix: string): string => join(out, `${name}.${suffix}`);

if (values.judge.length === 0)
  throw new RequestError("--judge is missing: a card without a figure says nothing; see --help");

const run = await loadRun(from, console.warn);
const stages: LoadedRun[] = [];
for (const earlier of values.before) stages.push(await loadRun(earlier, console.warn));
const begins = [...stages, run][0]!.config.settings.from;
if (begins !== undefined && begins !== "none" && shippedFile(String(begins)) === undefined)
  throw new RequestError(`${[...values.before, from][0]} came from ${begins}; name that with --before ahead of it`);
const classifier = run.tensors.has("fc.weight");
const what = classifier ? "classifier" : "encoder";
await exportModel({ from, what, format: "safetensors", layout: "torchvision", out: at("safetensors") });
await exportModel({ from, what, out: at("onnx"), limit: 0 });

const judges = ["clean", "pgd20", ...(values.autoattack ? ["autoattack"] : [])];
const titles: Readonly<Record<string, string>> = { clean: "clean", pgd20: "PGD-20", autoattack: "AutoAttack" };

/** A classifier's line of the card. */
const judged = async (judge: string): Promise<string[]> => {
  const cut = judge.indexOf("=");
  if (cut < 1) throw new RequestError(`--judge ${judge}: write TITLE=RUN`);
  const asked = { model: judge.slice(cut + 1), dataset: dataset as DatasetName, data, limit: Number(limit) };
  const { attacks, count } = await evaluate({ ...asked, attacks: judges });
  const printed = judges.map((attack) => {
    const { accuracy, interval } = attacks[attack]!;
    const [low, high] = interval.map((share) => (100 * share).toFixed(1));
    return `${(100 * accuracy).toFixed(1)} (${low} to ${high})`;
  });
  return [judge.slice(0, cut), ...printed, String(count)];
};
const lines: string[][] = [];
for (const judge of values.judge) lines.push(await judged(judge));

/** What was asked for beyond the defaults; where files lay on this machine says nothing to others. */
const toldOf = async ({ command, settings, paths = {} }: RunConfig): Promise<object> => {
  const { spec } = command === "pretrain" ? pretrain : finetune;
  const key = command === "pretrain" ? "method" : "scheme";
  const defining = { [key]: settings[key] };
  const asked = readObject(command, spec.rows, { ...defining, out } as never, "");
  const defaults = (await spec.resolve([asked], false)) as Readonly<Record<string, unknown>>;
  const differs = (key: string, value: unknown) => JSON.stringify(value) !== JSON.stringify(defaults[key]);
  const told = Object.entries(settings).filter(
    ([name, value]) => name in defining || (differs(name, value) && !Object.hasOwn(paths, name)),
  );
  return Object.fromEntries(told);
};

/** The commands one after the other, each from the run of the one before. */
const commands: string[] = [];
for (const [i, { config }] of [...stages, run].entries()) {
  const start = i > 0 ? { from: `runs/${i}` } : begins === undefined ? {} : { from: begins };
  commands.push(`npx ${commandOf(config.command, { ...(await toldOf(config)), ...start, out: `runs/${i + 1}` })}`);
}
/** How long each stage was. */
const lengths = [...stages, run].map(
  ({ config: { settings, command }, checkpoint: { step, epoch }, network: { size } }) =>
    `${command} ${settings.method ?? settings.scheme}: ${step} steps of ${settings.batch} images of ${size}×${size}, ${epoch} epochs`,
);

const { config, network } = run;
const { settings } = config;
const attacks =
  config.command === "pretrain"
    ? pickNamed("method", String(settings.method), (await loadPlugins([])).methods).options.includes("eps") &&
      settings.attack === true
    : schemes[String(settings.scheme) as SchemeName].objective !== "clean";
const within = attacks ? `, attacked within ${printRadius("linf", Number(settings.eps))} (L∞)` : "";
const card = `# ${name}

A ResNet-${network.depth} of width ${network.width} for images of ${network.size}×${network.size} pixels in [0, 1] (${what}), ${
  settings.method ?? settings.scheme
}, on ${values.images ?? settings.dataset}.

- **Begin with it**: \`npx advcl finetune --from ${name} …\`, \`export --from ${name}\`, \`serve --from ${name}\`
- **Elsewhere**: \`${name}.safetensors\` has torchvision's names of a ResNet; \`${name}.onnx\` is plain ONNX with batch norm folded in
- **Trained**: ${lengths.join("; then ")}${within}
- **Licence**: ${licence}
- **Made by** advcl ${config.versions.advcl}, commit ${config.commit ?? "unknown"}:

\`\`\`sh
${commands.join("\n")}
\`\`\`

Accuracy on test images, %, with 95 % intervals; attacks within 8/255 (L∞):

${markdownTable(["classifier", ...judges.map((attack) => titles[attack] ?? attack), "images"], lines)}
`;
await writeFileAtomic(at("md"), card);
console.log(card);
