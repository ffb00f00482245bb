import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";
import { readSafetensors } from "./safetensors.ts";
import { misfit, sniffFile } from "./sniff.ts";
import { readTorchCheckpoint, type TorchOptions } from "./torch-file.ts";

/** Weights out of a file of any kind that is read. */
export interface WeightsFile {
  readonly tensors: Map<string, Tensor>;
  /** What the file was taken for, to be told: "safetensors", "a PyTorch checkpoint, of which state_dict was read". */
  readonly description: string;
  /** Free text by key, of safetensors. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Other dictionaries of weights in it, by the keys that lead there; any can be asked for as `key`. */
  readonly others: readonly string[];
}

/**
 * Reads weights: safetensors or a PyTorch checkpoint, told by the file's first bytes whatever its suffix.
 *
 * @param options `key` chooses among the dictionaries of a checkpoint
 * @throws RequestError naming the file: what it is where it is something else, what is wrong with it otherwise
 */
export const readWeights = async (path: string, options: TorchOptions = {}): Promise<WeightsFile> => {
  const { kind } = await sniffFile(path);
  if (kind === "torch" || kind === "zip" || kind === "legacy-torch") {
    const { tensors, key, others } = await readTorchCheckpoint(path, options);
    const which = key === "" ? "" : `, of which ${key} was read`;
    const age = kind === "legacy-torch" ? " of before PyTorch 1.6" : "";
    return { tensors, description: `a PyTorch checkpoint${age}${which}`, metadata: {}, others };
  }
  // What begins like nothing known may be damaged safetensors: its reader says what is wrong.
  if (kind !== "safetensors" && kind !== "unknown" && kind !== "bmp")
    throw misfit(
      path,
      kind,
      "a file of weights",
      "give safetensors, or a PyTorch checkpoint as torch.save(model.state_dict(), file) writes it",
    );
  if (options.key !== undefined)
    throw new RequestError(`--key is of a PyTorch checkpoint, and ${path} is safetensors; leave it out`);
  const { tensors, metadata } = await readSafetensors(path);
  return { tensors, description: "safetensors", metadata, others: [] };
};
