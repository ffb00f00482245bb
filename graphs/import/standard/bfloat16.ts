/** Models in bfloat16 as float32, of which it is the upper half: every number is kept, sums are more exact. */
import { allGraphs, allNodes, allTensors, type ModelProto, type Rewrite, type TypeProto } from "./protos.ts";

const [BFLOAT16, FLOAT] = [16, 1];

const widened = (halves: ArrayLike<number>): Uint8Array => {
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = (halves[i]! & 0xffff) << 16;
  return new Uint8Array(bits.buffer);
};

const widenType = (type: TypeProto | null | undefined): boolean => {
  if (type?.tensorType?.elemType !== BFLOAT16) return false;
  type.tensorType.elemType = FLOAT;
  return true;
};

/** Turns all that is bfloat16 into float32. */
export const widenBfloat16 = (model: ModelProto): Rewrite => {
  let changed = false;
  for (const proto of allTensors(model)) {
    if (proto.dataType !== BFLOAT16) continue;
    const raw = proto.rawData;
    proto.rawData =
      raw && raw.length > 0
        ? widened(new Uint16Array(Uint8Array.from(raw).buffer, 0, raw.length >> 1))
        : widened(proto.int32Data ?? []);
    proto.int32Data = [];
    proto.dataType = FLOAT;
    changed = true;
  }
  for (const { input, output, valueInfo } of allGraphs(model))
    for (const { type } of [...(input ?? []), ...(output ?? []), ...(valueInfo ?? [])])
      changed = widenType(type) || changed;
  for (const node of allNodes(model))
    for (const attribute of node.attribute ?? [])
      if ((attribute.name === "to" || attribute.name === "dtype") && Number(attribute.i) === BFLOAT16) {
        attribute.i = FLOAT;
        changed = true;
      }
  return { changed, notes: changed ? ["it is in bfloat16 and is computed in float32"] : [] };
};
