/** ONNX files of a user's: read whole, with what lies beside them, and refused where their weights are no numbers. */
import { createHash } from "node:crypto";
import { closeSync, fstatSync, openSync, readSync, realpathSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, dirname, isAbsolute, relative, resolve } from "node:path";
import { type ReadExternal, standardFile } from "../../graphs/import/standard/index.ts";
import { GraphError } from "../../graphs/onnx/error.ts";
import { type FileModel, type FileNode, parseModel } from "../../graphs/onnx/parse.ts";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import { misfit, sniff, sniffedBytes } from "../files/sniff.ts";
import { checkFiniteFile } from "./finite.ts";

export interface ModelFile {
  readonly path: string;
  /** The file's name, for people. */
  readonly source: string;
  /** The model as one file. */
  readonly bytes: Uint8Array;
  /** SHA-256 of the file and of the data beside it. */
  readonly digest: string;
  readonly file: FileModel;
}

/** The runtime and the format take no model of more bytes. */
const LARGEST = 2 ** 31 - 1;

/** Reads data that a model keeps in files of its own folder. */
const besideModel =
  (path: string, digest: ReturnType<typeof createHash>): ReadExternal =>
  (location, offset, length) => {
    const folder = realpathSync(dirname(path));
    const target = resolve(folder, location);
    const within = (place: string): boolean => {
      const way = relative(folder, place);
      return way !== "" && !way.startsWith("..") && !isAbsolute(way);
    };
    if (!within(target))
      throw new RequestError(
        `${path} keeps weights in ${JSON.stringify(location)}, outside its folder, which is not read; save it with external_data=False or with the data beside it`,
      );
    let handle: number;
    try {
      if (!within(realpathSync(target)))
        throw new RequestError(
          `${path} keeps weights in ${JSON.stringify(location)}, a link that leads outside its folder; put the data itself beside it`,
        );
      handle = openSync(target, "r");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT")
        throw new RequestError(
          `${path} keeps its weights in ${location}, which is not beside it; put that file there, or export again with external_data=False`,
          { cause: error },
        );
      throw fileError(error, "read", target);
    }
    try {
      const { size } = fstatSync(handle);
      const wanted = length ?? size - offset;
      if (offset + wanted > size || wanted < 0)
        throw new RequestError(
          `${target} has ${size} bytes but ${basename(path)} expects data up to byte ${offset + wanted}; copy or download it again`,
        );
      const bytes = new Uint8Array(wanted);
      for (let at = 0; at < wanted; ) {
        const read = readSync(handle, bytes, at, wanted - at, offset + at);
        if (read === 0) break;
        at += read;
      }
      digest.update(bytes);
      return bytes;
    } finally {
      closeSync(handle);
    }
  };

const isOn = ({ attributes }: FileNode, name: string): boolean => {
  const given = attributes.get(name);
  return given?.kind === "int" && given.value !== 0;
};

/** Whether a value is a constant that is true. */
const truth = (
  name: string | undefined,
  initializers: FileModel["initializers"],
  nodes: FileModel["nodes"],
): boolean => {
  if (!name) return false;
  const value = nodes.find(({ op, outputs }) => op === "Constant" && outputs[0] === name)?.attributes.get("value");
  const held = initializers.get(name) ?? (value?.kind === "tensor" ? value.value : undefined);
  return Boolean(held?.data[0]);
};

/** Refuses what was exported as it trains: its batch norms would take the statistics of each batch. */
const checkMode = (path: string, { nodes, initializers, inputs }: FileModel): void => {
  // One of constants is no layer but arithmetic on a weight.
  const moved = new Set(inputs.map(({ name }) => name));
  for (const node of nodes)
    if (node.inputs.some((name) => moved.has(name))) for (const name of node.outputs) moved.add(name);
  const training = nodes.find(
    (node) => node.op === "BatchNormalization" && isOn(node, "training_mode") && moved.has(node.inputs[0] ?? ""),
  );
  const dropout = nodes.find(({ op, inputs }) => op === "Dropout" && truth(inputs[2], initializers, nodes));
  const active = training ?? dropout;
  if (active !== undefined)
    throw new RequestError(
      `${path} was exported in training mode (${active.name}); call model.eval() before torch.onnx.export`,
    );
};

/**
 * Reads an ONNX file, with the data that lies beside it.
 *
 * @throws RequestError where there is none, where it is no ONNX model, or where its weights are not finite
 */
export const readModelFile = async (path: string, warn: (message: string) => void): Promise<ModelFile> => {
  try {
    const raw = await readFile(path);
    const kind = sniff(raw.subarray(0, sniffedBytes), raw.length);
    // What has no mark of its own may be an ONNX file that another writer ordered otherwise.
    if (kind !== "onnx" && kind !== "unknown")
      throw misfit(path, kind, "an ONNX model", "export the model with torch.onnx.export and give that file");
    const digest = createHash("sha256").update(raw);
    const { bytes, notes } = standardFile(raw, besideModel(path, digest));
    if (bytes.length > LARGEST)
      throw new RequestError(`${path} comes to ${bytes.length} bytes; at most ${LARGEST} are supported`);
    const file = parseModel(bytes);
    checkMode(path, file);
    checkFiniteFile(path, file);
    for (const note of notes) warn(`${basename(path)}: ${note}`);
    return { path, source: basename(path), bytes, digest: digest.digest("hex"), file };
  } catch (error) {
    if (error instanceof GraphError && error.message.startsWith("this is not an ONNX model"))
      throw new RequestError(`${path} is no ONNX model, or is cut off or damaged; download or export it again`, {
        cause: error,
      });
    throw fileError(error, "read", path);
  }
};
