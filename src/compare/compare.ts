/** Methods under one budget: each is pretrained, finetuned and attacked with several seeds. */
import { join } from "node:path";
import { datasetNames } from "../data/dataset.ts";
import { RequestError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { writeSealed } from "../files/seal.ts";
import { loadPlugins } from "../plugins/plugins.ts";
import { writeReport } from "../report/write.ts";
import { networkDefaultsOf } from "../runs/network.ts";
import { nearestName, readObject } from "../settings/resolve.ts";
import { checkOptions } from "../train/feeds.ts";
import { pretrain } from "../train/pretrain.ts";
import { defineVerb, Interrupted, type VerbContext } from "../verbs/verb.ts";
import { classify, contendersOf, schemeNames, suits } from "./classifiers.ts";
import { compareSettings, type Settings } from "./compare-settings.ts";
import { encoderOf } from "./encoders.ts";
import { openPipeline } from "./pipeline.ts";
import { type Cell, printTable, type Row, rowsOf } from "./table.ts";
import { ablations, sourceOf } from "./variant.ts";

export interface CompareResult {
  readonly out: string;
  /** Mean and spread over the seeds. */
  readonly rows: readonly Row[];
  /** Each classifier. */
  readonly cells: readonly Cell[];
}

/** More methods, seeds, schemes and datasets may be added to a comparison; its budget stays. */
const growing = ["methods", "seeds", "schemes", "datasets", "autoattack", "radii", "seed"];

/** The one of `known` that a text names. */
const named = <Name extends string>(setting: string, text: string, known: readonly Name[]): Name => {
  const name = known.find((candidate) => candidate === text);
  if (name === undefined) {
    const nearest = nearestName(text, known);
    throw new RequestError(
      `${setting} ${text}: choose among ${known.join(", ")}${nearest === undefined ? "" : `; did you mean ${nearest}?`}`,
    );
  }
  return name;
};

const writeTable = async (out: string, cells: readonly Cell[]): Promise<void> => {
  await writeFileAtomic(join(out, "table.md"), `${printTable(cells)}\n`);
  await writeSealed(join(out, "table.json"), { rows: rowsOf(cells), cells });
};

const perform = async (settings: Settings, context: VerbContext): Promise<CompareResult> => {
  const { out } = settings;
  const { plugin } = settings;
  const plugins = await loadPlugins(plugin);
  const contenders = contendersOf(settings, plugins.methods);
  // What a variant asks of pretraining is looked at before anything is trained.
  const { spec } = pretrain;
  for (const { variant } of contenders) {
    if (variant === undefined) continue;
    const { method, definition, settings: own } = variant;
    const named = readObject(spec.name, spec.rows, { method, plugin }, "");
    checkOptions(definition, await spec.resolve([sourceOf(own), named], false));
  }
  const schemes = settings.schemes.map((scheme) => named("schemes", scheme, schemeNames));
  const asked = settings.datasets.length > 0 ? settings.datasets : [settings.dataset];
  const datasets = asked.map((dataset) => named("datasets", dataset, datasetNames));
  const pipeline = await openPipeline(
    { out, file: "compare.json", thing: "comparison", growing, plugins: plugins.files },
    context,
  );
  const cells: Cell[] = [];
  try {
    for (const seed of settings.seeds)
      for (const contender of contenders) {
        const encoder = contender.variant && (await encoderOf(contender.variant, seed, settings, pipeline));
        for (const dataset of datasets)
          for (const scheme of schemes.filter((one) => suits(contender, one))) {
            cells.push(await classify({ contender, seed, dataset, scheme }, encoder, settings, pipeline));
            await writeTable(out, cells);
          }
      }
    await writeReport(out);
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    throw new Interrupted(`stopped; the same command goes on from what ${out} holds`);
  }
  context.print(printTable(cells));
  return { out, rows: rowsOf(cells), cells };
};

/**
 * Pretrains every method with every seed under one budget, finetunes by every scheme and tabulates accuracies. Results are
 * kept in `out` as they come; the same call goes on where it was stopped.
 *
 * @throws RequestError where the request is wrong, RunError where a part failed, Interrupted where the signal was aborted
 */
export const compare = defineVerb(
  {
    name: "compare",
    settings: compareSettings,
    presets: { ablations: { methods: ablations } },
    complete: ({ arch }) => networkDefaultsOf(arch),
  },
  perform,
);
