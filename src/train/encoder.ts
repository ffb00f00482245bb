/** The encoder that finetuning starts from. */

import { join } from "node:path";
import { encoder } from "../../graphs/nn/encoder.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import { input } from "../../graphs/onnx/graph.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { paramName, pathOf } from "../../graphs/steps/names.ts";
import { listed, RequestError } from "../errors.ts";
import { sameClasses } from "../models/fit.ts";
import { latestCheckpoint } from "../runs/checkpoint.ts";
import { loadRun, type Network, weightFeeds } from "../runs/network.ts";
import { readRunConfig } from "../runs/run-folder.ts";
import type { VerbContext } from "../verbs/verb.ts";
import { type GivenFinetuning, schemes } from "./finetune-settings.ts";

/** An encoder to start from: its network with the branch to take, and its tensors by PyTorch name and by model input. */
export interface Origin {
  readonly network: Network;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly inputs: ReadonlyMap<string, Tensor>;
  /** The linear head to begin with, by model input; a new one where it is left out. */
  readonly head: ReadonlyMap<string, Tensor> | undefined;
  /** Names of the classes that its rows stand for; none where they are not known. */
  readonly classNames: readonly string[];
}

/** What training starts from, and what its checkpoints hold besides. */
export const startOf = ({ inputs, head, classNames }: Origin, headOnly: boolean, names: readonly string[]) => {
  const classes = names.length;
  const rows = head?.get("param.fc.weight")?.shape[0];
  if (rows !== undefined && rows !== classes)
    throw new RequestError(`the head of --from tells ${rows} classes apart, not ${classes}; leave --keep-head out`);
  if (head !== undefined && !sameClasses(classNames, names))
    throw new RequestError(
      `the head of --from tells ${listed(classNames)} apart, in this order, and the images have ${listed(names)}; leave --keep-head out, or give the images that it was trained on`,
    );
  return headOnly
    ? { kept: inputs, ...(head && { initial: head }) }
    : { initial: new Map([...inputs, ...(head ?? [])]) };
};

/** The linear head of a run of finetuning, by model input. */
const headOf = (tensors: ReadonlyMap<string, Tensor>, source: string): ReadonlyMap<string, Tensor> =>
  new Map(
    ["fc.weight", "fc.bias"].map((path) => {
      const value = tensors.get(path);
      if (value === undefined)
        throw new RequestError(
          `the run in ${source} has no linear head; leave --keep-head out, or give a run of finetune`,
        );
      return [paramName(path), value] as const;
    }),
  );

/** The run in --out where it is to be resumed and has a checkpoint. */
export const resumable = async ({
  resume,
  out,
}: Pick<GivenFinetuning, "resume" | "out">): Promise<string | undefined> => {
  if (!resume || out === undefined || (await readRunConfig(out)) === undefined) return undefined;
  return (await latestCheckpoint(join(out, "checkpoints"), () => {})) === undefined ? undefined : out;
};

/** What an encoder is made of, with one of its batch-norm branches. */
export const encoderStore = (network: Network, branch = network.evaluatedBranch): Store => {
  const store = new Store();
  const images = input("images", { dtype: "float32", shape: [1, 3, network.size, network.size] });
  encoder(network)(new Scope(store, { mode: "eval", branches: [branch] }), images);
  return store;
};

/** Refuses settings of an encoder where training starts at random. */
const checkFresh = ({ scheme, branch, keepHead }: GivenFinetuning): void => {
  if (schemes[scheme].headOnly)
    throw new RequestError(
      `${scheme} trains only a head, which says nothing of a random encoder; give --from RUN, or another --scheme`,
    );
  if (branch !== "auto") throw new RequestError("--branch is of an encoder; leave it out with --from none");
  if (keepHead) throw new RequestError("--keep-head is of a run; leave it out with --from none");
};

/**
 * The encoder of --from; undefined where training starts at random. A resumed run takes its own, so that what became of
 * the other run meanwhile does not matter.
 */
export const originOf = async (settings: GivenFinetuning, context: VerbContext): Promise<Origin | undefined> => {
  const { scheme, from, branch } = settings;
  if (from === undefined)
    throw new RequestError(
      `${scheme} needs --from RUN, the folder of a pretrained encoder${schemes[scheme].headOnly ? "" : " (or --from none)"}`,
    );
  if (from === "none") {
    checkFresh(settings);
    return undefined;
  }
  for (const key of ["arch", "depth", "width", "stem", "size"] as const)
    if (settings[key] !== undefined)
      throw new RequestError(`--${key} is the encoder's own with --from ${from}; leave it out`);
  const source = (await resumable(settings)) ?? from;
  const loaded = await loadRun(source, context.warn);
  const { branches } = loaded.network;
  if (branch !== "auto" && !branches?.includes(branch))
    throw new RequestError(
      `the encoder of ${from} has no batch-norm branch ${branch}; ${branches ? `it has ${branches.join(", ")}` : "leave --branch out"}`,
    );
  const network = branch === "auto" ? loaded.network : { ...loaded.network, evaluatedBranch: branch };
  const inputs = new Map(
    Object.entries(weightFeeds(encoderStore(network), loaded.tensors, `the encoder of ${source}`)),
  );
  const tensors = new Map([...inputs].map(([name, value]) => [pathOf(name), value]));
  context.log(`${inputs.size} tensors of the encoder from ${source}`);
  const head = settings.keepHead ? headOf(loaded.tensors, source) : undefined;
  return { network, tensors, inputs, head, classNames: loaded.classes };
};
