import { Budget, type ReadOptions } from "./budget.ts";
import { unpickle } from "./pickle-machine.ts";
import { bytesPer, type StorageRef, type Storages, storageRef, torchClass } from "./torch-tensor.ts";
import type { TorchContent } from "./torch-zip.ts";

/**
 * Files of torch.save before PyTorch 1.6 (`_legacy_save` of torch/serialization.py): pickles of a magic number, the
 * protocol's version, what the system was like, the object itself and the keys of its storages; then, in the order of
 * the keys, the count of elements in eight bytes and the elements. The format has no checksum.
 */

const plain = { resolve: torchClass };

/**
 * Reads a legacy file.
 * @param bytes the whole file
 * @throws Error that says what is wrong with it, to be put behind the file's name
 */
export const readLegacyTorch = (bytes: Uint8Array<ArrayBuffer>, options: ReadOptions): TorchContent => {
  const magic = unpickle(bytes, plain);
  if (magic.value !== 0x1950a86a20f9469cfc6cn) throw new Error("its magic number is another");
  const version = unpickle(bytes, plain, { offset: magic.end });
  if (version.value !== 1001) throw new Error(`its protocol is ${String(version.value)}, not 1001`);
  const system = unpickle(bytes, plain, { offset: version.end });
  if (!(system.value instanceof Map) || system.value.get("little_endian") !== true)
    throw new Error("its tensors are big-endian");
  const budget = Budget.of(2 * bytes.length, options); // storages, and the tensors made of them
  const used = new Map<string, StorageRef>();
  const top = unpickle(
    bytes,
    {
      resolve: torchClass,
      persistent: (id) => {
        if (Array.isArray(id) && id[0] === "module") return id[1]; // a whole model: its class, beside its source
        const storage = storageRef(id);
        const before = used.get(storage.key);
        if (before !== undefined && (before.typeName !== storage.typeName || before.count !== storage.count))
          throw new Error(`its storage ${storage.key} is described in two ways`);
        used.set(storage.key, storage);
        return storage;
      },
    },
    { offset: system.end, budget },
  );
  const { value: keys, end } = unpickle(bytes, plain, { offset: top.end, budget });
  if (!Array.isArray(keys)) throw new Error("the list of its storages is missing");
  const places = placesOf(bytes, end, keys.map(String), used);
  const storages: Storages = async ({ key }) => {
    const place = places.get(key);
    if (place === undefined) throw new Error(`its storage ${key} is missing`);
    return bytes.slice(place.begin, place.end); // a copy is aligned
  };
  return { top: top.value, storages: once(storages), budget };
};

/** Each storage is copied once, however many tensors lie in it. */
const once = (storages: Storages): Storages => {
  const read = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();
  return (storage) => {
    const found = read.get(storage.key) ?? storages(storage);
    read.set(storage.key, found);
    return found;
  };
};

const placesOf = (
  bytes: Uint8Array,
  start: number,
  keys: readonly string[],
  used: ReadonlyMap<string, StorageRef>,
): Map<string, { readonly begin: number; readonly end: number }> => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const places = new Map<string, { readonly begin: number; readonly end: number }>();
  let at = start;
  for (const key of keys) {
    const storage = used.get(key);
    if (storage === undefined || places.has(key)) throw new Error(`its storage ${key} belongs to no tensor`);
    if (storage.type === undefined) throw new Error(`its storage ${key} is of ${storage.typeName}, which is not read`);
    const each = bytesPer(storage.type);
    if (at + 8 > bytes.length || view.getBigInt64(at, true) !== BigInt(storage.count))
      throw new Error(
        `its storage ${key} has another count of elements than its tensors say: the file is cut or damaged`,
      );
    const begin = at + 8;
    at = begin + storage.count * each;
    if (!(at <= bytes.length))
      throw new Error(`it is cut short: its storage ${key} ends at byte ${at} of ${bytes.length}`);
    places.set(key, { begin, end: at });
  }
  if (at !== bytes.length) throw new Error(`${bytes.length - at} bytes follow its last storage`);
  return places;
};
