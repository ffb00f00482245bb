/** A look over the bytes of a model file before the decoder takes memory for them. */
import { GraphError } from "./error.ts";

/** The error of a file that is no sound model. */
export const malformed = (message: string, where: { op?: string; path?: string } = {}): GraphError =>
  new GraphError("malformed", message, where);
/** The error of a file that holds what is not read. */
export const unsupported = (message: string, where: { op?: string; path?: string } = {}): GraphError =>
  new GraphError("unsupported", message, where);

/** What a field holds: a message by its own fields, bytes (or text), a number by its wire type, or many of them. */
type Field = Message | "bytes" | "varint" | "fixed32" | "fixed64" | "varints" | "fixed32s" | "fixed64s";
interface Message {
  readonly [field: number]: Field | (() => Message);
}

const entry: Message = { 1: "bytes", 2: "bytes" };
const tensorMessage: Message = {
  1: "varints",
  2: "varint",
  3: { 1: "varint", 2: "varint" },
  4: "fixed32s",
  5: "varints",
  6: "bytes",
  7: "varints",
  8: "bytes",
  9: "bytes",
  10: "fixed64s",
  11: "varints",
  12: "bytes",
  13: entry,
  14: "varint",
};
const sparseMessage: Message = { 1: tensorMessage, 2: tensorMessage, 3: "varints" };
const dimMessage: Message = { 1: { 1: "varint", 2: "bytes", 3: "bytes" } };
const typeMessage: Message = {
  1: { 1: "varint", 2: dimMessage },
  4: { 1: () => typeMessage },
  5: { 1: "varint", 2: () => typeMessage },
  6: "bytes",
  8: { 1: "varint", 2: dimMessage },
  9: { 1: () => typeMessage },
};
const valueMessage: Message = { 1: "bytes", 2: typeMessage, 3: "bytes" };
const attributeMessage: Message = {
  1: "bytes",
  2: "fixed32",
  3: "varint",
  4: "bytes",
  5: tensorMessage,
  6: () => graphMessage,
  7: "fixed32s",
  8: "varints",
  9: "bytes",
  10: tensorMessage,
  11: () => graphMessage,
  13: "bytes",
  14: typeMessage,
  15: typeMessage,
  20: "varint",
  21: "bytes",
  22: sparseMessage,
  23: sparseMessage,
};
const nodeMessage: Message = {
  1: "bytes",
  2: "bytes",
  3: "bytes",
  4: "bytes",
  5: attributeMessage,
  6: "bytes",
  7: "bytes",
};
const graphMessage: Message = {
  1: nodeMessage,
  2: "bytes",
  5: tensorMessage,
  10: "bytes",
  11: valueMessage,
  12: valueMessage,
  13: valueMessage,
  14: { 1: "bytes", 2: entry },
  15: sparseMessage,
};
const opsetMessage: Message = { 1: "bytes", 2: "varint" };
const modelMessage: Message = {
  1: "varint",
  2: "bytes",
  3: "bytes",
  4: "bytes",
  5: "varint",
  6: "bytes",
  7: graphMessage,
  8: opsetMessage,
  14: entry,
  20: { 1: graphMessage, 2: graphMessage, 3: entry, 4: entry },
  25: {
    1: "bytes",
    2: "varint",
    3: "varint",
    4: "bytes",
    5: "bytes",
    6: "bytes",
    7: nodeMessage,
    8: "bytes",
    9: opsetMessage,
    10: "bytes",
  },
};

/** Messages within messages that a sound model has; a body of control flow adds three. */
const MAX_DEPTH = 64;
/** Messages, texts and listed numbers: each becomes an object of the decoder. */
const MAX_OBJECTS = 2 ** 23;

/** Throws where the bytes are no sound model, or hold more than is read. */
export const checkWire = (bytes: Uint8Array): void => {
  let objects = 0;
  const count = (n: number) => {
    objects += n;
    if (objects > MAX_OBJECTS) throw unsupported(`the file holds more than ${MAX_OBJECTS} messages and listed numbers`);
  };
  const broken = (at: number, why: string) => malformed(`this is not an ONNX model: at byte ${at} ${why}`);
  const varint = (at: number, end: number): [value: number, next: number] => {
    let value = 0;
    for (let i = 0; i < 10; i++) {
      if (at + i >= end) break;
      const byte = bytes[at + i]!;
      value += (byte & 127) * 2 ** (7 * i);
      if (byte < 128) return [value, at + i + 1];
    }
    throw broken(at, "a number is cut off");
  };
  // An explicit stack: a file decides how deep it goes, up to MAX_DEPTH.
  const stack: { message: Message; at: number; end: number }[] = [{ message: modelMessage, at: 0, end: bytes.length }];
  for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
    if (top.at === top.end) {
      stack.pop();
      continue;
    }
    const start = top.at;
    const [tag, next] = varint(start, top.end);
    const wire = tag % 8;
    const field = Math.floor(tag / 8);
    const declared = top.message[field];
    const holds = typeof declared === "function" ? declared() : declared;
    if (field === 0 || field > 2 ** 29) throw broken(start, "a field has no number");
    let length = 0;
    let body = next;
    if (wire === 0) body = varint(next, top.end)[1];
    else if (wire === 1) length = 8;
    else if (wire === 5) length = 4;
    else if (wire === 2) [length, body] = varint(next, top.end);
    else throw broken(start, `a field has the wire type ${wire}`);
    if (length > top.end - body) throw broken(start, `${length} bytes are announced but ${top.end - body} are left`);
    top.at = body + length;
    if (holds === undefined) continue;
    const fits =
      typeof holds === "object" || holds === "bytes"
        ? wire === 2
        : holds.startsWith("varint")
          ? wire === 0 || (wire === 2 && holds.endsWith("s"))
          : wire === (holds.startsWith("fixed32") ? 5 : 1) || (wire === 2 && holds.endsWith("s"));
    if (!fits) throw broken(start, `field ${field} has the wire type ${wire}`);
    if (typeof holds === "object") {
      count(1);
      if (stack.length >= MAX_DEPTH) throw broken(start, `messages lie more than ${MAX_DEPTH} deep`);
      stack.push({ message: holds, at: body, end: top.at });
    } else if (holds === "bytes") count(1);
    else if (wire === 2 && holds === "varints") {
      let numbers = 0;
      for (let at = body; at < top.at; numbers++) at = varint(at, top.at)[1];
      count(numbers);
    } else if (wire === 2) {
      const width = holds === "fixed32s" ? 4 : 8;
      if (length % width !== 0) throw broken(start, "a list of numbers is cut off");
      count(length / width);
    } else count(1);
  }
};
