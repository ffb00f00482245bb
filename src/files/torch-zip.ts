import type { FileHandle } from "node:fs/promises";
import { Budget, type ReadOptions } from "./budget.ts";
import { unpickle } from "./pickle-machine.ts";
import { bytesPer, type Storages, storageRef, torchClass } from "./torch-tensor.ts";
import { openZip } from "./zip.ts";

/** What a checkpoint holds: the pickled object, and its storages, which are read when they are asked for. */
export interface TorchContent {
  readonly top: unknown;
  readonly storages: Storages;
  readonly budget: Budget;
}

/**
 * Files of torch.save since PyTorch 1.6: a zip archive of data.pkl, data/KEY for each storage and byteorder. What is
 * read is checked against the archive's CRC-32.
 * @throws Error that says what is wrong with it, to be put behind the file's name
 */
export const readTorchZip = async (handle: FileHandle, size: number, options: ReadOptions): Promise<TorchContent> => {
  const budget = Budget.of(2 * size, options); // storages, and the tensors made of them
  const zip = await openZip(handle, size, budget);
  const pickles = zip.names.filter((name) => /(^|\/)data\.pkl$/.test(name));
  const [pickle] = pickles;
  if (pickle === undefined) throw new Error("it holds no data.pkl, as torch.save writes it");
  if (pickles.length > 1) throw new Error(`it holds ${pickles.length} files data.pkl`);
  const folder = pickle.slice(0, -"data.pkl".length);
  if (zip.names.some((name) => name.startsWith(`${folder}code/`) || name === `${folder}constants.pkl`))
    throw new Error("it is a TorchScript program; save the model's state_dict() with torch.save");
  if (zip.has(`${folder}byteorder`)) {
    const order = Buffer.from(await zip.read(`${folder}byteorder`)).toString();
    if (order !== "little") throw new Error("its tensors are big-endian");
  }
  const { value: top } = unpickle(await zip.read(pickle), { resolve: torchClass, persistent: storageRef }, { budget });
  const read = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();
  const storages: Storages = async ({ key, typeName, type, count }) => {
    const name = `${folder}data/${key}`;
    if (!zip.has(name)) throw new Error(`its storage ${key} is missing`);
    const found = read.get(name) ?? zip.read(name);
    read.set(name, found);
    const bytes = await found;
    if (type !== undefined && bytes.length !== count * bytesPer(type))
      throw new Error(`its storage ${key} has ${bytes.length} bytes, which are not ${count} elements of ${typeName}`);
    return bytes;
  };
  return { top, storages, budget };
};
