/**
 * Checkpoints as torch.save writes them, since PyTorch 1.6 and before. Nothing of their pickles is executed: tensors
 * and containers are made, every other object becomes an inert one.
 */
import { type FileHandle, open } from "node:fs/promises";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";
import type { ReadOptions } from "./budget.ts";
import { fileError } from "./file-error.ts";
import { textOf } from "./pickle-stack.ts";
import { readExactly } from "./read-exactly.ts";
import { misfit, sniff, sniffedBytes } from "./sniff.ts";
import { readLegacyTorch } from "./torch-legacy.ts";
import { isInert, TorchTensor, UnreadTensor } from "./torch-tensor.ts";
import { readTorchZip, type TorchContent } from "./torch-zip.ts";

export interface TorchOptions extends ReadOptions {
  /** The dictionary to read, by the keys that lead to it (`state_dict_ema`, `model.weights`); "" is the whole file. */
  readonly key?: string | undefined;
  /** Whether a dictionary of such shapes by name is what is looked for; left out, the largest is. */
  readonly fits?: ((shapes: ReadonlyMap<string, readonly number[]>) => boolean) | undefined;
}

export interface TorchCheckpoint {
  readonly tensors: Map<string, Tensor>;
  /** The keys that lead to the dictionary that was read, joined by dots; "" where it is the whole file. */
  readonly key: string;
  /** Other dictionaries that fit, or have at least half as many tensors, such as averaged weights. */
  readonly others: readonly string[];
}

interface Dictionary {
  readonly key: string;
  readonly tensors: ReadonlyMap<string, TorchTensor | UnreadTensor>;
}

/** Keys of weights that are not the trained ones themselves: averages, teachers, what an optimizer keeps. */
const secondary = /(^|[._])(ema|swa|averaged?|avg|teacher|momentum|target|optim\w*)([._]|$)/i;

/** Characters of the keys that lead to a dictionary, joined: what lies deeper is not looked for. */
const longestKey = 512;

/** Every dictionary with tensors in a pickle, each once: what is read by itself first. */
const dictionariesIn = (top: unknown): Dictionary[] => {
  const found: Dictionary[] = [];
  const seen = new Set<unknown>();
  // Breadth first, so that each is found under the shortest of its keys.
  let level: [string, unknown][] = [["", top]];
  while (level.length > 0) {
    const next: [string, unknown][] = [];
    for (const [key, value] of level) {
      if (!(value instanceof Map) || seen.has(value)) continue;
      seen.add(value);
      const tensors = new Map<string, TorchTensor | UnreadTensor>();
      for (const [name, inner] of value) {
        const text = textOf(name) ?? String(name);
        if (inner instanceof TorchTensor || inner instanceof UnreadTensor) tensors.set(text, inner);
        else if (inner instanceof Map && key.length + text.length <= longestKey)
          next.push([key === "" ? text : `${key}.${text}`, inner]);
      }
      if (tensors.size > 0) found.push({ key, tensors });
    }
    level = next;
  }
  return found.sort(
    (a, b) => Number(secondary.test(a.key)) - Number(secondary.test(b.key)) || b.tensors.size - a.tensors.size,
  );
};

const shapesOf = ({ tensors }: Dictionary): Map<string, readonly number[]> =>
  new Map(Array.from(tensors, ([name, tensor]) => [name, tensor instanceof TorchTensor ? tensor.shape : []]));

const quoted = (dictionaries: readonly Dictionary[]): string =>
  dictionaries.map(({ key }) => JSON.stringify(key)).join(", ");

/** The dictionary that is meant, and others that might be. */
const choose = (
  top: unknown,
  path: string,
  { key: wanted, fits }: TorchOptions,
): { chosen: Dictionary; others: string[] } => {
  const dictionaries = dictionariesIn(top);
  if (dictionaries.length === 0) {
    if (isInert(top))
      throw new Error(`it holds a whole model (${top.className}), not its weights; save model.state_dict() instead`);
    throw new Error("it holds no dictionary of tensors; save the model's state_dict(), not a list or the model");
  }
  // An optimizer's dictionaries of two or three tensors are no weights, nor are averages of more than what was trained.
  const largest = Math.max(...dictionaries.map(({ tensors }) => tensors.size));
  const sizeable = dictionaries.filter(({ tensors }) => 2 * tensors.size >= largest);
  const fitting = fits === undefined ? [] : dictionaries.filter((dictionary) => fits(shapesOf(dictionary)));
  const possible = fitting.length > 0 ? fitting : sizeable;
  const trained = possible.filter(({ key }) => !secondary.test(key));
  const likely = trained.length > 0 ? trained : possible;
  if (wanted === undefined && fitting.length > 0 && likely.length > 1)
    throw new RequestError(
      `${path} holds ${likely.length} networks, under ${quoted(likely)}; choose one, such as --key ${likely[0]!.key}`,
    );
  const chosen = wanted === undefined ? likely[0]! : dictionaries.find(({ key }) => key === wanted);
  if (chosen === undefined)
    throw new RequestError(
      `${path} has no dictionary of tensors under ${JSON.stringify(wanted)}; it has ${quoted(possible)}: choose one of these by --key`,
    );
  const others = [...new Set([...fitting, ...sizeable])].filter((other) => other !== chosen).map(({ key }) => key);
  return { chosen, others };
};

const readTensors = async (
  { tensors }: Dictionary,
  { storages, budget }: TorchContent,
): Promise<Map<string, Tensor>> => {
  const made = new Map<string, Tensor>();
  for (const [name, tensor] of tensors) {
    try {
      if (tensor instanceof UnreadTensor) throw new Error(tensor.reason);
      made.set(name, await tensor.read(storages, budget));
    } catch (cause) {
      throw new Error(`the tensor ${JSON.stringify(name)}: ${(cause as Error).message}`, { cause });
    }
  }
  return made;
};

const readContent = async (handle: FileHandle, path: string, options: ReadOptions): Promise<TorchContent> => {
  const { size } = await handle.stat();
  const cut = (at: number): Error => new Error(`it ended at byte ${at} while being read`);
  const start = await readExactly(handle, 0, Math.min(size, sniffedBytes), cut);
  const kind = sniff(start, size);
  // A damaged name of the first member doesn't make another file of it: data.pkl decides.
  if (kind === "torch" || kind === "zip") return readTorchZip(handle, size, options);
  if (kind === "legacy-torch") return readLegacyTorch(await readExactly(handle, 0, size, cut), options);
  throw misfit(path, kind, "a PyTorch checkpoint", "load it in PyTorch and save its state_dict() with torch.save");
};

/**
 * The weights in a PyTorch checkpoint: the largest of its dictionaries of tensors, whether that is the whole file or
 * lies under keys such as `state_dict`. Where averages (`state_dict_ema`) or a teacher lie beside it, what was trained
 * itself is read; `others` names what was not.
 *
 * @throws RequestError naming the file and what is wrong with it: another kind of file, damaged (zip archives have
 *   checksums, files of before PyTorch 1.6 have none), a tensor that reaches beyond its storage, more than the budget
 */
export const readTorchCheckpoint = async (path: string, options: TorchOptions = {}): Promise<TorchCheckpoint> => {
  const handle = await open(path, "r").catch((error: unknown) => {
    throw fileError(error, "read", path);
  });
  try {
    const content = await readContent(handle, path, options);
    const { chosen, others } = choose(content.top, path, options);
    return { tensors: await readTensors(chosen, content), key: chosen.key, others };
  } catch (error) {
    if (error instanceof RequestError && error.message.startsWith(path)) throw error;
    const ours = fileError(error, "read", path);
    if (ours !== error) throw ours;
    throw new RequestError(`${path} is not a PyTorch checkpoint that can be read: ${(error as Error).message}`, {
      cause: error,
    });
  } finally {
    await handle.close();
  }
};

/** The weights in a PyTorch checkpoint, as `readTorchCheckpoint` gives them. */
export const readTorchFile = async (path: string, options: TorchOptions = {}): Promise<Map<string, Tensor>> =>
  (await readTorchCheckpoint(path, options)).tensors;
