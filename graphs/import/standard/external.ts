/** Tensors whose data lies in other files, as exporters write them beside the model. */
import { GraphError } from "../../onnx/error.ts";
import { allTensors, type ModelProto, type Rewrite } from "./protos.ts";

/**
 * Bytes of a file beside the model, `length` of them from `offset` on, all that follow where the length is left out.
 * Whoever reads answers for the place: nothing outside the model's folder.
 */
export type ReadExternal = (location: string, offset: number, length: number | undefined) => Uint8Array;

/** ONNX's TensorProto.DataLocation. */
const EXTERNAL = 1;

const whole = (text: string, what: string, name: string): number => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value))
    throw new GraphError("malformed", `the tensor ${JSON.stringify(name)} has the ${what} ${JSON.stringify(text)}`);
  return value;
};

/** Takes the data of all tensors into the model. */
export const takeIn = (model: ModelProto, read: ReadExternal): Rewrite => {
  const locations = new Set<string>();
  for (const proto of allTensors(model)) {
    const entries = proto.externalData ?? [];
    if (proto.dataLocation !== EXTERNAL && entries.length === 0) continue;
    const name = proto.name ?? "";
    const given = new Map(entries.map(({ key, value }) => [key ?? "", value ?? ""]));
    const location = given.get("location");
    if (location === undefined)
      throw new GraphError("malformed", `the tensor ${JSON.stringify(name)} does not say which file holds its data`);
    const length = given.get("length");
    proto.rawData = read(
      location,
      whole(given.get("offset") ?? "0", "offset", name),
      length === undefined ? undefined : whole(length, "length", name),
    );
    proto.externalData = [];
    proto.dataLocation = 0;
    locations.add(location);
  }
  return { changed: locations.size > 0, notes: [] };
};
