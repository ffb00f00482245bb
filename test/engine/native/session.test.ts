/** The native engine beside the binding: the same bytes, clean errors, nothing left behind. */
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { advcl } from "../../../graphs/methods/advcl.ts";
import { input, type Value } from "../../../graphs/onnx/graph.ts";
import { float32, type Tensor } from "../../../graphs/onnx/tensor.ts";
import { buildModel } from "../../../graphs/onnx/write.ts";
import { add, cast, gather, identity, matMul, mul, reshape, topK } from "../../../graphs/ops/index.ts";
import { compile } from "../../../graphs/steps/step.ts";
import { cpuTarget } from "../../../graphs/targets/cpu/index.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { benchFeeds } from "../../../src/bench/measure.ts";
import { createSession, type EngineName } from "../../../src/engine/session.ts";
import { rewritingOf } from "../../../src/engine/targets.ts";

const engines: readonly EngineName[] = ["binding", "native"];

const bytesOf = ({ data }: Tensor): Buffer => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

/** Results of each engine, the binding's first. */
const both = async (
  model: Parameters<typeof createSession>[0],
  feeds: Readonly<Record<string, Tensor>>,
  options: Parameters<typeof createSession>[1] = {},
): Promise<Record<string, Tensor>[]> => {
  const results: Record<string, Tensor>[] = [];
  for (const engine of engines) {
    const session = await createSession(model, { threads: 1, ...options, engine });
    results.push(await session.run(feeds));
    await session.release();
  }
  return results;
};

const expectSame = ([one, other]: readonly Record<string, Tensor>[]): void => {
  expect(Object.keys(other ?? {})).toEqual(Object.keys(one ?? {}));
  for (const [name, value] of Object.entries(one ?? {})) {
    const found = other?.[name] as Tensor;
    expect([name, found.dtype, found.shape]).toEqual([name, value.dtype, value.shape]);
    expect([name, bytesOf(found).equals(bytesOf(value))]).toEqual([name, true]);
  }
};

const x = input("x", { dtype: "float32", shape: [2, 3] });
const small = buildModel({ y: mul(x, 2), same: identity(x) });
const two = float32([2, 3], [1, 2, 3, 4, 5, 6]);

describe("the same bytes as the binding's", () => {
  test.each([portable, cpuTarget()])("a whole step on $name", async (target) => {
    const step = advcl.build({
      ...advcl.paper,
      ...{
        batch: 4,
        size: 16,
        depth: 18,
        width: 4,
        stem: "cifar",
        clusters: [2, 3],
        radius: 4,
        attackSteps: 1,
        trace: true,
      },
    });
    expectSame(await both(compile(step, target), benchFeeds(step, 17), rewritingOf(target, "cpu")));
  });

  test("integers, halves, booleans, scalars, empty tensors and passed-through inputs", async () => {
    const { values, indices } = topK(x, 2);
    const model = buildModel({
      values,
      indices,
      half: cast(x, { to: "float16" }),
      flag: cast(x, { to: "bool" }),
      bytes: cast(x, { to: "uint8" }),
      doubles: cast(x, { to: "float64" }),
      scalar: reshape(gather(reshape(x, [6]), input("i", { dtype: "int64", shape: [1] }) as Value), []),
      empty: add(input("none", { dtype: "float32", shape: [0, 4] }), 1),
      same: identity(x),
    });
    const feeds = {
      x: two,
      i: { dtype: "int64", shape: [1], data: BigInt64Array.of(4n) } as Tensor,
      none: float32([0, 4], []),
    };
    const results = await both(model, feeds);
    expectSame(results);
    expectSame(await both(model.bytes, feeds));
    expect(results[1]?.scalar?.data[0]).toBe(5);
  });

  test("dimensions that the file leaves free", async () => {
    const rows = input("rows", { dtype: "float32", shape: [2, 3] });
    const model = buildModel({ y: matMul(rows, input("w", { dtype: "float32", shape: [3, 1] })) }, [], {
      dynamic: { rows: ["n"], y: ["n"] },
    });
    const feeds = { rows: float32([5, 3], new Float32Array(15).fill(2)), w: float32([3, 1], [1, 1, 1]) };
    expectSame(await both(model.bytes, feeds));
  });
});

describe("what goes wrong", () => {
  test.each(engines)("%s: a node is named with its path", async (engine) => {
    const table = input("table", { dtype: "float32", shape: [4] });
    const model = buildModel({ y: gather(table, input("i", { dtype: "int64", shape: [1] })) });
    const session = await createSession(model, { engine, threads: 1 });
    const feeds = {
      table: float32([4], [1, 2, 3, 4]),
      i: { dtype: "int64", shape: [1], data: BigInt64Array.of(9n) } as Tensor,
    };
    await expect(session.run(feeds)).rejects.toThrow(/^onnxruntime: .*indices.*\(Gather at the top, made /s);
    expect((await session.run({ ...feeds, i: { ...feeds.i, data: BigInt64Array.of(2n) } as Tensor })).y?.data[0]).toBe(
      3,
    );
    await session.release();
  });

  test("a file that is none", async () => {
    await expect(createSession(Uint8Array.of(1, 2, 3), { engine: "native" })).rejects.toThrow(
      /^onnxruntime: .*protobuf/,
    );
    await expect(createSession(new Uint8Array(0), { engine: "native" })).rejects.toThrow(/^onnxruntime: /);
  });

  test("a provider that the native engine does not have", async () => {
    const webgpu = createSession(small, { engine: "native", provider: "webgpu" });
    await expect(webgpu).rejects.toThrow(/choose --engine binding/);
    const cuda = createSession(small, { engine: "native", provider: "cuda" });
    await expect(cuda).rejects.toThrow(/the provider cuda is not available here \(.+\); choose --provider cpu/);
  });

  test("feeds of any wrong kind are refused, and the session goes on", async () => {
    const sessions = await Promise.all(
      [small, small.bytes].map((model) => createSession(model, { engine: "native", threads: 1 })),
    );
    const shape = fc.array(fc.integer({ min: -1, max: 4 }), { maxLength: 4 });
    const data = fc.oneof(
      fc.integer({ min: 0, max: 40 }).map((n) => new Float32Array(n)),
      fc.integer({ min: 0, max: 40 }).map((n) => new Float64Array(n)),
      fc.integer({ min: 0, max: 40 }).map((n) => new Uint8Array(n)),
      fc.constant(undefined),
      fc.constant([1, 2, 3, 4, 5, 6]),
    );
    const dtype = fc.constantFrom("float32", "float64", "uint8", "int64", "string", "constructor");
    const right = { dtype: "float32", shape: [2, 3] };
    await fc.assert(
      fc.asyncProperty(dtype, shape, data, async (kind, dims, values) => {
        const value = { dtype: kind, shape: dims, data: values } as unknown as Tensor;
        const fits =
          kind === right.dtype && dims.join() === "2,3" && ArrayBuffer.isView(values) && values.byteLength === 24;
        for (const session of sessions) {
          const run = session.run({ x: value });
          if (fits) await run;
          else await expect(run).rejects.toThrow(/^internal: /);
        }
      }),
      { numRuns: 300, seed: 17 },
    );
    for (const session of sessions) {
      await expect(session.run({})).rejects.toThrow(/the input x is not fed/);
      await expect(session.run({ x: two }, ["z"])).rejects.toThrow(/no output z/);
      expect([...((await session.run({ x: two }, ["y"])).y as Tensor).data]).toEqual([2, 4, 6, 8, 10, 12]);
      await session.release();
    }
  });
});

/** A product that takes a moment. */
const slow = buildModel({
  y: matMul(
    input("a", { dtype: "float32", shape: [1000, 1000] }),
    input("b", { dtype: "float32", shape: [1000, 1000] }),
  ),
});
const slowFeeds = { a: float32([1000, 1000], new Float32Array(1e6)), b: float32([1000, 1000], new Float32Array(1e6)) };

describe("disposal", () => {
  test("waits for what runs, refuses what comes after, and may be asked for twice", async () => {
    const session = await createSession(slow, { engine: "native", threads: 1 });
    const order: string[] = [];
    const runs = [0, 1].map((i) =>
      session.run(slowFeeds).then((results) => order.push(`${i} ${Object.keys(results).join()}`)),
    );
    const ended = session.release().then(() => order.push("released"));
    await expect(session.run(slowFeeds)).rejects.toThrow(/released/);
    await Promise.all([...runs, ended, session.release()]);
    expect(order).toEqual(["0 y", "1 y", "released"]);
    expect(() => session.endProfiling()).toThrow(/released/);
  });

  test("JavaScript goes on while a model runs", async () => {
    const session = await createSession(slow, { engine: "native", threads: 1 });
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    await session.run(slowFeeds);
    clearInterval(timer);
    await session.release();
    expect(ticks).toBeGreaterThan(1);
  });
});
