/**
 * Python's pickle machine (the opcodes of protocols 0 to 5, Lib/pickletools.py) with nothing of Python behind it: it
 * makes numbers, texts, bytes, arrays, Maps and Sets, and what the caller makes of the classes that a pickle names.
 * Each opcode costs no more than the bytes and values it takes in, so a pickle of n bytes costs a multiple of n; what
 * its values take in memory is taken from a budget.
 */
import { Budget } from "./budget.ts";
import { PickleInput } from "./pickle-input.ts";
import { longestName, type PickleHandlers, PickleStack } from "./pickle-stack.ts";

/** The bytes of a quoted str of protocol 0, as Python's repr writes it. */
const unquoted = (line: string): Uint8Array => {
  const quote = line[0];
  if (line.length < 2 || (quote !== "'" && quote !== '"') || line.at(-1) !== quote)
    throw new Error("a text without quotes");
  const named = new Map([
    ["n", "\n"],
    ["r", "\r"],
    ["t", "\t"],
  ]);
  const text = line
    .slice(1, -1)
    .replace(/\\(?:x([0-9a-fA-F]{2})|(.))/g, (_, hex: string | undefined, other: string) =>
      hex === undefined ? (named.get(other) ?? other) : String.fromCharCode(Number.parseInt(hex, 16)),
    );
  return new Uint8Array(Buffer.from(text, "latin1"));
};

const longestLine = 2 ** 31;

/** A line in Python's raw-unicode-escape. */
const rawUnicode = (line: string): string =>
  line.replace(/\\u([0-9a-fA-F]{4})|\\U00([01][0-9a-fA-F]{5})/g, (whole, short?: string, long?: string) => {
    const code = Number.parseInt(short ?? long ?? "", 16);
    return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });

/** A number of protocol 0 and 1, which spell True and False as 01 and 00. */
const int = (input: PickleInput): number | bigint | boolean => {
  const { position } = input;
  const value = input.decimal();
  return input.position - position === 3 && (value === 0 || value === 1) ? value === 1 : value;
};

const checkProtocol = (protocol: number): void => {
  if (protocol > 5) throw new Error(`protocol ${protocol} is not known`);
};

type Opcode = (stack: PickleStack, input: PickleInput) => void;

/** The extension codes and out-of-band buffers are not among them: they stand for what is not in the file. */
const opcodes: ReadonlyMap<number, Opcode> = new Map<number, Opcode>([
  // Of the stream itself: PROTO; FRAME, whose bytes are read one by one all the same.
  [0x80, (_, i) => checkProtocol(i.uint8())],
  [0x95, (_, i) => void i.skip(8)],
  // MARK, POP, POP_MARK, DUP.
  [0x28, (s) => s.mark()],
  [0x30, (s) => s.drop()],
  [0x31, (s) => void s.marked()],
  [0x32, (s) => s.push(s.top())],
  // PUT, BINPUT, LONG_BINPUT, MEMOIZE; GET, BINGET, LONG_BINGET.
  [0x70, (s, i) => s.put(i.decimal())],
  [0x71, (s, i) => s.put(i.uint8())],
  [0x72, (s, i) => s.put(i.uint32())],
  [0x94, (s) => s.memoize()],
  [0x67, (s, i) => s.get(i.decimal())],
  [0x68, (s, i) => s.get(i.uint8())],
  [0x6a, (s, i) => s.get(i.uint32())],
  // NONE, NEWTRUE, NEWFALSE.
  [0x4e, (s) => s.push(null)],
  [0x88, (s) => s.push(true)],
  [0x89, (s) => s.push(false)],
  // INT, LONG, BININT, BININT1, BININT2, LONG1, LONG4, FLOAT, BINFLOAT.
  [0x49, (s, i) => s.push(int(i))],
  [0x4c, (s, i) => s.push(i.decimal())],
  [0x4a, (s, i) => s.push(i.int32())],
  [0x4b, (s, i) => s.push(i.uint8())],
  [0x4d, (s, i) => s.push(i.uint16())],
  [0x8a, (s, i) => s.push(i.integer(i.uint8()))],
  [0x8b, (s, i) => s.push(i.integer(i.int32()))],
  [0x46, (s, i) => s.push(Number(i.line(longestName)))],
  [0x47, (s, i) => s.push(i.float64())],
  // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8; READONLY_BUFFER.
  [0x42, (s, i) => s.push(i.bytes(i.uint32()))],
  [0x43, (s, i) => s.push(i.bytes(i.uint8()))],
  [0x8e, (s, i) => s.push(i.bytes(i.uint64()))],
  [0x96, (s, i) => s.push(i.bytes(i.uint64()))],
  [0x98, (s) => s.push(s.pop())],
  // The str of Python 2, which is bytes: STRING, BINSTRING, SHORT_BINSTRING.
  [0x53, (s, i) => s.push(unquoted(i.line(longestLine)))],
  [0x54, (s, i) => s.push(i.bytes(i.int32()))],
  [0x55, (s, i) => s.push(i.bytes(i.uint8()))],
  // UNICODE, BINUNICODE, SHORT_BINUNICODE, BINUNICODE8.
  [0x56, (s, i) => s.push(rawUnicode(i.line(longestLine)))],
  [0x58, (s, i) => s.push(i.text(i.uint32()))],
  [0x8c, (s, i) => s.push(i.text(i.uint8()))],
  [0x8d, (s, i) => s.push(i.text(i.uint64()))],
  // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3.
  [0x29, (s) => s.fresh([])],
  [0x74, (s) => s.fresh(s.marked())],
  [0x85, (s) => s.tuple(1)],
  [0x86, (s) => s.tuple(2)],
  [0x87, (s) => s.tuple(3)],
  // EMPTY_LIST, LIST, APPEND, APPENDS.
  [0x5d, (s) => s.fresh([])],
  [0x6c, (s) => s.fresh(s.marked())],
  [0x61, (s) => s.append([s.pop()])],
  [0x65, (s) => s.append(s.marked())],
  // EMPTY_DICT, DICT, SETITEM, SETITEMS.
  [0x7d, (s) => s.fresh(new Map())],
  [0x64, (s) => s.dictionary(s.marked())],
  [0x73, (s) => s.setItems([s.pop(), s.pop()].reverse())],
  [0x75, (s) => s.setItems(s.marked())],
  // EMPTY_SET, FROZENSET, ADDITEMS.
  [0x8f, (s) => s.fresh(new Set())],
  [0x91, (s) => s.frozenSet(s.marked())],
  [0x90, (s) => s.add(s.marked())],
  // GLOBAL, STACK_GLOBAL.
  [0x63, (s, i) => s.name(i.line(longestName), i.line(longestName))],
  [0x93, (s) => s.stackName(s.pop(), s.pop())],
  // INST, OBJ, REDUCE, NEWOBJ, NEWOBJ_EX, BUILD.
  [0x69, (s, i) => s.instance(i.line(longestName), i.line(longestName))],
  [0x6f, (s) => s.object(s.marked())],
  [0x52, (s) => s.reduce()],
  [0x81, (s) => s.reduce()],
  [0x92, (s) => s.reduce(s.pop())],
  [0x62, (s) => s.build()],
  // PERSID, BINPERSID.
  [0x50, (s, i) => s.persistent(i.line(longestName))],
  [0x51, (s) => s.persistent(s.pop())],
]);

const stop = 0x2e;

export interface UnpickleOptions {
  /** Where it begins. */
  readonly offset?: number;
  /** What its values take in memory is taken from this. Default: that of a file of its size. */
  readonly budget?: Budget;
}

/**
 * What a pickle holds.
 * @returns its value, and where it ends
 * @throws Error that says what is wrong with it, to be put behind the file's name
 */
export const unpickle = (
  bytes: Uint8Array,
  handlers: PickleHandlers,
  { offset = 0, budget = Budget.of(bytes.length, {}) }: UnpickleOptions = {},
): { readonly value: unknown; readonly end: number } => {
  const input = new PickleInput(bytes, offset);
  const stack = new PickleStack(handlers, budget);
  for (;;) {
    const at = input.position;
    const code = input.uint8();
    if (code === stop) return { value: stack.pop(), end: input.position };
    const opcode = opcodes.get(code);
    if (opcode === undefined) throw new Error(`its byte ${at} (${code}) is no opcode of a pickle that is read here`);
    opcode(stack, input);
  }
};
