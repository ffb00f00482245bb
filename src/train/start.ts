/** The weights that pretraining begins with where it goes on from another run's encoder. */
import { Store } from "../../graphs/nn/scope.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { kindOf, paramName, pathOf, stateName } from "../../graphs/steps/names.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { listed, RequestError } from "../errors.ts";
import { type LoadedRun, loadRun, type Network, weightFeeds } from "../runs/network.ts";
import type { VerbContext } from "../verbs/verb.ts";
import { encoderStore, resumable } from "./encoder.ts";

/** What of the settings says whence training starts. */
interface Start {
  readonly from?: string | undefined;
  readonly resume: boolean;
  readonly out?: string | undefined;
  readonly method: string;
}

/** Defaults of the network's settings that a run brings; none where it can't be read, which is told once it is needed. */
export const networkDefaultsFrom = async (from: string) => {
  const run = await loadRun(from, () => {}).catch(() => undefined);
  if (run === undefined) return {};
  const { arch = "resnet", depth, width, stem } = run.network;
  return { arch, depth: String(depth), width, stem };
};

const shape = ({ arch = "resnet", depth, width, stem }: Network): Record<string, string | number> => ({
  arch,
  depth,
  width,
  stem,
});

/** Refuses an encoder that is not the one to be trained. */
const checkEncoder = (from: string, { network: found }: LoadedRun, network: Network): void => {
  const [has, wants] = [shape(found), shape(network)];
  for (const [name, value] of Object.entries(has))
    if (wants[name] !== value)
      throw new RequestError(`--${name} is ${wants[name]} and the encoder of ${from} has ${value}; leave it out`);
  if (found.normalisation !== undefined)
    throw new RequestError(
      `the encoder of ${from} normalises its pixels and pretraining would not; give a run of pretrain`,
    );
  const [branches, wanted] = [found.branches, network.branches];
  if (branches !== undefined && branches.join() !== wanted?.join())
    throw new RequestError(
      `the encoder of ${from} has the batch-norm branches ${listed(branches)}, and the one to be trained ` +
        `${wanted === undefined ? "has none" : listed(wanted)}; ${withOneBranch(from)}`,
    );
};

/** What a user can do whose encoder has other branches. */
const withOneBranch = (from: string): string =>
  `make a file of it that has one, advcl export --from ${from} --format safetensors --layout torchvision --out encoder.safetensors, and give that`;

/** The tensors of the encoder by model input: of each branch its own, or in every branch those of an encoder without. */
const encoderOf = (
  from: string,
  { network: found, tensors }: LoadedRun,
  { store }: Step,
  network: Network,
): Map<string, Tensor> => {
  const begun = new Map<string, Tensor>();
  for (const branch of network.branches ?? [network.evaluatedBranch]) {
    const { parameters, states } = encoderStore(network, branch);
    const wanted = new Store();
    // A method may leave a branch out: AdvCL's for clusters without those.
    for (const [path, slot] of parameters) if (store.parameters.has(path)) wanted.parameters.set(path, slot);
    for (const [path, slot] of states) if (store.states.has(path)) wanted.states.set(path, slot);
    const given = new Map<string, Tensor>();
    for (const path of [...wanted.parameters.keys(), ...wanted.states.keys()]) {
      const value = tensors.get(found.branches ? path : path.replace(/\.bn_list\.\d+\./, "."));
      if (value === undefined && found.branches)
        throw new RequestError(
          `the encoder of ${from} was trained without the branch ${branch}; ${withOneBranch(from)}`,
        );
      if (value !== undefined) given.set(path, value);
    }
    for (const [name, value] of Object.entries(weightFeeds(wanted, given, `the encoder of ${from}`)))
      begun.set(name, value);
  }
  return begun;
};

/** Heads of a run of the same method: those that have the same name and shape. */
const headsOf = (
  { tensors, config }: LoadedRun,
  { store }: Step,
  method: string,
  begun: ReadonlyMap<string, Tensor>,
) =>
  config.command !== "pretrain" || config.settings.method !== method
    ? []
    : [...store.parameters.values(), ...store.states.values()].flatMap(({ path, type }) => {
        const name = store.parameters.has(path) ? paramName(path) : stateName(path);
        const value = tensors.get(path);
        const fits = value !== undefined && value.shape.join() === type.shape.join();
        return fits && !begun.has(name) ? [[name, value] as const] : [];
      });

/**
 * Weights by model input that training begins with instead of random ones: all of the encoder of --from, and its heads where it
 * was trained by the same method. Undefined without --from, or where a checkpoint of --out stands for them.
 *
 * @throws RequestError where the encoder is not of this network
 */
export const beginningOf = async (
  settings: Start,
  step: Step,
  network: Network,
  context: VerbContext,
): Promise<Map<string, Tensor> | undefined> => {
  const { from, method } = settings;
  if (from === undefined || (await resumable(settings)) !== undefined) return undefined;
  const run = await loadRun(from, context.warn);
  checkEncoder(from, run, network);
  const begun = encoderOf(from, run, step, network);
  const heads = headsOf(run, step, method, begun);
  const isFresh = (path: string): boolean =>
    !begun.has(paramName(path)) && !heads.some(([name]) => pathOf(name) === path);
  const fresh = [...step.store.parameters.keys()].filter(isFresh);
  context.log(
    `begins with ${begun.size} tensors of the encoder of ${from}` +
      `${heads.length > 0 ? ` and ${heads.filter(([name]) => kindOf(name) === "param").length} parameters of its heads` : ""}` +
      `${fresh.length > 0 ? `; ${listed([...new Set(fresh.map((path) => path.split(".")[0]!))])} begin at random` : ""}`,
  );
  return new Map([...begun, ...heads]);
};
