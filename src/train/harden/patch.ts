/**
 * New values for the weights of an ONNX file, written over the old ones where they lie. Every other byte stays: names,
 * inputs, outputs, versions, and what this project does not know of.
 */
import protobuf from "protobufjs/minimal.js";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { RequestError } from "../../errors.ts";

// Field numbers of onnx.proto.
const [MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_FLOATS, TENSOR_NAME, TENSOR_RAW, METADATA] = [7, 5, 4, 8, 9, 14];
const LENGTH_DELIMITED = 2;

/** Where the bytes of a field lie. */
interface Span {
  readonly start: number;
  readonly end: number;
}

/** Fields of a message that have a length, in order. */
function* fields(bytes: Uint8Array, { start, end }: Span): Generator<{ readonly field: number; readonly span: Span }> {
  const reader = protobuf.Reader.create(bytes);
  reader.pos = start;
  while (reader.pos < end) {
    const tag = reader.uint32();
    if ((tag & 7) !== LENGTH_DELIMITED) {
      reader.skipType(tag & 7);
      continue;
    }
    const length = reader.uint32();
    const from = reader.pos;
    yield { field: tag >>> 3, span: { start: from, end: from + length } };
    reader.pos = from + length;
  }
}

/** The data of each float initializer of the main graph by name: raw bytes or packed floats, which are the same bytes. */
const spansOf = (bytes: Uint8Array): Map<string, Span> => {
  const spans = new Map<string, Span>();
  for (const model of fields(bytes, { start: 0, end: bytes.length }))
    if (model.field === MODEL_GRAPH)
      for (const graph of fields(bytes, model.span))
        if (graph.field === GRAPH_INITIALIZER) {
          let [name, data]: [string, Span | undefined] = ["", undefined];
          for (const { field, span } of fields(bytes, graph.span))
            if (field === TENSOR_NAME) name = Buffer.from(bytes.subarray(span.start, span.end)).toString();
            else if (field === TENSOR_RAW || (field === TENSOR_FLOATS && span.end > span.start)) data = span;
          if (data !== undefined) spans.set(name, data);
        }
  return spans;
};

/** A metadata_props entry, as bytes to stand at the end of a model. */
const metadataBytes = (key: string, value: string): Uint8Array => {
  const entry = protobuf.Writer.create().uint32(10).string(key).uint32(18).string(value).finish();
  return protobuf.Writer.create()
    .uint32((METADATA << 3) | LENGTH_DELIMITED)
    .bytes(entry)
    .finish();
};

/**
 * The file with other weights (float32, by initializer name) and more metadata.
 * @throws RequestError where a weight is stored in a way that cannot be overwritten
 */
export const patchWeights = (
  file: Uint8Array,
  weights: ReadonlyMap<string, Tensor>,
  metadata: Readonly<Record<string, string>>,
): Uint8Array => {
  const patched = Uint8Array.from(file);
  const spans = spansOf(patched);
  for (const [name, { data }] of weights) {
    const span = spans.get(name);
    if (span === undefined || span.end - span.start !== data.byteLength)
      throw new RequestError(
        `the weight ${name} is not stored as float32 inside the file; save the model again without external data`,
      );
    patched.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), span.start);
  }
  return Buffer.concat([patched, ...Object.entries(metadata).map(([key, value]) => metadataBytes(key, value))]);
};
