import { describe, expect, test } from "@jest/globals";
import { Budget } from "../../src/files/budget.ts";
import { readPickledArrays, readPickledDictionary } from "../../src/files/pickle.ts";
import { unpickle } from "../../src/files/pickle-machine.ts";
import { Inert, InertClass } from "../../src/files/pickle-stack.ts";

const latin = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "latin1"));
const inert = { resolve: (module: string, name: string) => new InertClass(`${module}.${name}`) };
const value = (text: string): unknown => unpickle(latin(text), inert).value;

describe("a pickle's values", () => {
  // Each as pickletools writes it; protocol 0 and 1 in text.
  test.each<[string, string, unknown]>([
    ["INT", "I12\n.", 12],
    ["INT true", "I01\n.", true],
    ["INT one", "I1\n.", 1],
    ["LONG", "L-5L\n.", -5],
    ["LONG1", "\x8a\x02\xff\x00.", 255],
    ["LONG1 negative", "\x8a\x01\xff.", -1],
    ["LONG1 beyond a double", "\x8a\x09\0\0\0\0\0\0\0\0\x01.", 2n ** 64n],
    ["LONG4", "\x8b\x01\0\0\0\x7f.", 127],
    ["BINFLOAT", "G\x3f\xe0\0\0\0\0\0\0.", 0.5],
    ["FLOAT", "F-1.5\n.", -1.5],
    ["UNICODE", "Va\\u732b\n.", "a猫"],
    ["BINUNICODE", "X\x03\0\0\0\xe7\x8c\xab.", "猫"],
    ["STRING of Python 2", "S'a\\x41\\n\\\\'\n.", latin("aA\n\\")],
    ["tuples", "K\x01K\x02\x86\x85.", [[1, 2]]],
    ["dictionary", "(K\x01K\x02d.", new Map([[1, 2]])],
    ["dictionary of Python 2", "}U\x01aK\x02s.", new Map([["a", 2]])],
    ["list", "](K\x01K\x02e.", [1, 2]],
    ["set", "\x8f(K\x01K\x01\x90.", new Set([1])],
    ["memo", "]q\x05h\x05\x86.", [[], []]],
    ["POP of a mark", "(0K\x03.", 3],
  ])("%s", (_, text, expected) => {
    expect(value(text)).toEqual(expected);
  });

  test("an object of any class is inert", () => {
    const made = value("cos\nsystem\n(X\x02\0\0\0lstR}X\x01\0\0\0aK\x01sb.");
    expect(made).toBeInstanceOf(Inert);
    expect(made).toMatchObject({ className: "os.system" });
  });
});

describe("a hostile pickle", () => {
  const count = (text: string, n: number): string => text.repeat(n);
  test.each<[string, string, RegExp]>([
    ["a negative length", "B\xff\xff\xff\xff.", /4294967295 bytes are announced/],
    ["a negative length of Python 2", "T\xff\xff\xff\xff.", /a length of -1/],
    ["more than there is", "\x8e\0\0\0\0\x01\0\0\0.", /4294967296 bytes are announced/],
    ["a length beyond numbers", `\x8e${count("\xff", 8)}.`, /a length of/],
    ["a bomb of a number", `\x8b\0\0\x10\0${count("\x01", 2 ** 20)}.`, /a number of 1048576 bytes/],
    ["a negative number's length", "\x8b\xff\xff\xff\xff.", /a number of -1 bytes/],
    ["a number of a million digits", `L${count("9", 10 ** 6)}L\n.`, /a line without end/],
    ["an empty stack", "0.", /more than it made/],
    ["no mark", "t.", /a mark is missing/],
    ["an empty memo", "h\x05.", /nothing was kept under 5/],
    ["an unknown opcode", "\x99.", /byte 0 \(153\) is no opcode/],
    ["an extension", "\x82\x01.", /is no opcode/],
    ["no end", "K\x01", /1 bytes are announced/],
    ["a call of what is no class", "K\x01)R.", /calls what is no class/],
    ["data outside of it", "P1\n.", /data outside/],
    ["a name of a million letters", `c${count("a", 10 ** 6)}\nb\n.`, /a line without end/],
  ])("is refused: %s", (_, text, message) => {
    expect(() => value(text)).toThrow(message);
  });

  test("reaches no prototype", () => {
    const before = Object.getOwnPropertyNames(Object.prototype).sort();
    const key = (name: string): string => `X${String.fromCharCode(name.length)}\0\0\0${name}`;
    const attack = `}${key("polluted")}K\x01s`;
    const found = [
      // A state given to numpy.__proto__, to an instance of it, and under keys of these names.
      `cnumpy\n__proto__\n${attack}b.`,
      `cnumpy\n__proto__\n)R${attack}b.`,
      `cnumpy\nconstructor\n)R${attack}b.`,
      `(${key("__proto__")}}${key("polluted")}K\x01sd.`,
      `}${key("__proto__")}}${key("polluted")}K\x01ss.`,
      `}${key("constructor")}}${key("prototype")}${attack}ss.`,
    ];
    for (const text of found) {
      for (const read of [value, (bytes: string) => readPickledDictionary(latin(bytes))])
        try {
          read(text);
        } catch (error) {
          expect((error as Error).message).toMatch(
            /only numpy arrays are read|what has none|no dictionary|not a dictionary/,
          );
        }
      expect(({} as { polluted?: number }).polluted).toBeUndefined();
    }
    expect(Object.getOwnPropertyNames(Object.prototype).sort()).toEqual(before);
  });

  test("costs a multiple of its bytes", () => {
    // One long bytes object, used over and over as a state, a key and an argument.
    const size = 2 ** 20;
    const long = `B\0\0\x10\0${"x".repeat(size)}q\x01`;
    const times = 20_000;
    const began = performance.now();
    value(`${long}0${"h\x010".repeat(times)}N.`);
    value(`${long}0ca\nb\n)R${"h\x01b".repeat(times)}.`);
    value(`${long}0](${"h\x01".repeat(times)}e.`);
    expect(() => value(`${long}0}${"h\x01Ns".repeat(times)}.`)).toThrow(/a key of 1048576 bytes/);
    expect(() => value(`${long}0${"h\x01h\x01\x93".repeat(times)}.`)).toThrow(/has no name/);
    expect(performance.now() - began).toBeLessThan(5_000);
  });

  test.each(["}", "(", "]", "\x8f", "}\x94", "N", "cm\nn\n)R"])(
    "takes its values' memory from the budget: %j",
    (text) => {
      const bomb = latin(text.repeat(2 ** 18));
      expect(() => unpickle(bomb, inert, { budget: new Budget(2 ** 20) })).toThrow(
        /its values would take \d+ bytes where/,
      );
    },
  );

  test("may hold an array under a thousand names, but not unpack to more than the budget", () => {
    const values = 2 ** 16;
    const array = `cnumpy\nndarray\nq\x020cnumpy._core.multiarray\n_reconstruct\n(h\x02K\0\x85U\x01btR(K\x01J\0\0\x01\0\x85cnumpy\ndtype\nU\x02u1K\0K\x01\x87R\x89B\0\0\x01\0${"\x01".repeat(values)}tbq\x03`;
    const names = Array.from({ length: 1000 }, (_, i) => `X\x04\0\0\0${String(1000 + i)}h\x03s`);
    const pickle = latin(`\x80\x02${array}0}${names.slice(0, 3).join("")}.`);
    expect([...readPickledArrays(pickle).values()].map(({ shape }) => shape)).toEqual([[values], [values], [values]]);
    expect(() => readPickledArrays(latin(`\x80\x02${array}0}${names.join("")}.`), { budget: 2 ** 22 })).toThrow(
      /an array in it would take \d+ bytes where/,
    );
  });
});
