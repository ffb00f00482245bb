/**
 * The checkpoint of onnxruntime's on-device training: a flatbuffer with the file identifier ODTC, version 2. Only the part
 * that a fresh start needs is written: the module's parameters and the property bag.
 */
import { Builder } from "flatbuffers";
import type { Tensor } from "../../graphs/onnx/tensor.ts";

const FLOAT = 1;

/** A table of up to `fields` fields; `fill` adds them by number. */
const table = (builder: Builder, fields: number, fill: () => void): number => {
  builder.startObject(fields);
  fill();
  return builder.endObject();
};

const vectorOf = (builder: Builder, offsets: readonly number[]): number => {
  builder.startVector(4, offsets.length, 4);
  for (const offset of [...offsets].reverse()) builder.addOffset(offset);
  return builder.endVector();
};

/** Tensor: 0 name, 2 dims, 3 data_type, 4 raw_data, 6 external_data_offset (-1). */
const tensorTable = (builder: Builder, name: string, { shape, data }: Tensor): number => {
  const label = builder.createString(name);
  builder.startVector(8, shape.length, 8);
  for (const d of [...shape].reverse()) builder.addInt64(BigInt(d));
  const dims = builder.endVector();
  const raw = builder.createByteVector(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return table(builder, 7, () => {
    builder.addFieldOffset(0, label, 0);
    builder.addFieldOffset(2, dims, 0);
    builder.addFieldInt32(3, FLOAT, 0);
    builder.addFieldOffset(4, raw, 0);
    builder.addFieldInt64(6, -1n, -1n);
  });
};

/** A checkpoint in which every tensor (float32) is frozen to the engine, and texts by key in its property bag. */
export const encodeCheckpoint = (
  tensors: ReadonlyMap<string, Tensor>,
  properties: Readonly<Record<string, string>> = {},
): Uint8Array => {
  const bytes = Array.from(tensors.values()).reduce((n, { data }) => n + data.byteLength + 256, 1024);
  const builder = new Builder(bytes);
  const frozen = vectorOf(
    builder,
    Array.from(tensors, ([name, value]) => tensorTable(builder, name, value)),
  );
  const trainable = vectorOf(builder, []);
  const module = table(builder, 4, () => {
    builder.addFieldOffset(0, trainable, 0);
    builder.addFieldOffset(1, frozen, 0);
  });
  const texts = Object.entries(properties).map(([key, text]) => {
    const [name, value] = [builder.createString(key), builder.createString(text)];
    return table(builder, 2, () => {
      builder.addFieldOffset(0, name, 0);
      builder.addFieldOffset(1, value, 0);
    });
  });
  const strings = vectorOf(builder, texts);
  const bag = table(builder, 3, () => builder.addFieldOffset(2, strings, 0));
  const checkpoint = table(builder, 4, () => {
    builder.addFieldInt32(0, 2, 0);
    builder.addFieldOffset(1, module, 0);
    builder.addFieldOffset(3, bag, 0);
  });
  builder.finish(checkpoint, "ODTC");
  return builder.asUint8Array();
};
