/**
 * One classifier as people have it, in the files that public bug reports tell of: whatever the disguise, `evaluate` gives the same
 * right figures, or says what to do.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import sharp from "sharp";
import { constant, input, type Value } from "../../graphs/onnx/graph.ts";
import { float32, tensor } from "../../graphs/onnx/tensor.ts";
import { argMax, cast, div, mul, reshape, softmax, sub, transpose } from "../../graphs/ops/index.ts";
import { type EvaluateResult, evaluate } from "../../src/evaluate/evaluate.ts";
import { predictionsOf } from "../../src/models/prediction.ts";
import { harden } from "../../src/train/harden.ts";
import { quietReporter } from "../../src/verbs/reporter.ts";
import { portably } from "../evaluate/models.ts";
import { randomNumbers } from "../graphs/run.ts";
import { changed, featuresOf, fileOf, logitsOf, onnx } from "./files.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-cases-"));
afterAll(() => rmSync(folder, { recursive: true }));
const data = join(folder, "images");
const classes = ["a", "b", "c", "d", "e"];
/** Images of each class that the classifier says, and how many there are. */
const EACH = 6;
const COUNT = EACH * classes.length;
/** Of them those that are called what the classifier says. */
const RIGHT = (COUNT * 2) / 3;

const CANDIDATES = 600;
const pictures = (): Uint8Array => {
  const random = randomNumbers(6);
  const bytes = new Uint8Array(CANDIDATES * 192);
  for (let i = 0; i < CANDIDATES; i++)
    for (let c = 0; c < 3; c++) {
      const [base, slope, wave] = [random(), random() - 0.5, random()];
      for (let p = 0; p < 64; p++) {
        const value = base + slope * (p / 64 - 0.5) + 0.3 * wave * Math.sin(p * (1 + 3 * slope)) + 0.1 * random();
        bytes[i * 192 + c * 64 + p] = Math.max(0, Math.min(255, Math.round(255 * value)));
      }
    }
  return bytes;
};
const candidates = pictures();
const logitsOfAll = await (async () => {
  const shape = [CANDIDATES, 3, 8, 8];
  const session = await portably({ y: logitsOf(input("x", { dtype: "float32", shape })) });
  const { y } = await session.run({
    x: tensor(
      "float32",
      shape,
      Float32Array.from(candidates, (v) => v / 255),
    ),
  });
  await session.release();
  return y!.data as Float32Array;
})();
const means = classes.map((_, k) => logitsOfAll.reduce((sum, v, i) => sum + (i % 5 === k ? v : 0), 0) / CANDIDATES);
/** The classifier: the small one's logits less their means, so that it says each class. */
const scored = (x: Value): Value => sub(logitsOf(x), constant(float32([1, 5], means)));

/** Pictures of which the classifier takes as many for each class; two of three are called so. */
beforeAll(async () => {
  const found = predictionsOf(
    float32(
      [CANDIDATES, 5],
      logitsOfAll.map((v, i) => v - means[i % 5]!),
    ),
  );
  const chosen = classes.flatMap((_, k) => [...found.keys()].filter((i) => found[i] === k).slice(0, EACH));
  if (chosen.length < COUNT) throw new Error("the classifier gives a class too seldom");
  for (const split of ["train", "test"])
    for (const name of classes) mkdirSync(join(data, split, name), { recursive: true });
  for (const [place, i] of chosen.entries()) {
    const rows = Uint8Array.from({ length: 192 }, (_, k) => candidates[i * 192 + (k % 3) * 64 + Math.floor(k / 3)]!);
    const name = classes[(found[i]! + (place % 3 === 0 ? 1 : 0)) % 5]!;
    for (const split of ["train", "test"])
      await sharp(rows, { raw: { width: 8, height: 8, channels: 3 } })
        .png()
        .toFile(join(data, split, name, `${place}.png`));
  }
});

const warnings: string[] = [];
const options = {
  reporter: { ...quietReporter, warn: (message: string) => void warnings.push(message) },
};
let written = 0;
const write = (bytes: Uint8Array): string => {
  const path = join(folder, `model${written++}.onnx`);
  writeFileSync(path, bytes);
  return path;
};
const figures = ({ attacks }: EvaluateResult): number[] => Object.values(attacks).map(({ right }) => right);
const judge = async (bytes: Uint8Array, more: object = {}): Promise<number[]> => {
  warnings.length = 0;
  const asked = { dataset: "folder" as const, data, attacks: ["clean", "pgd5"], eps: [0.02], threads: 1, batch: 15 };
  return figures(await evaluate({ model: write(bytes), ...asked, ...more }, options));
};

const plain = fileOf((x) => ({ logits: scored(x) }));
const nchw = (x: Value): Value => transpose(x, { perm: [0, 3, 1, 2] });
const nhwc = { shape: [2, 8, 8, 3] };

/** Weights listed among the inputs, as files of IR 3 have them. */
const listed = changed(plain, (model) => {
  const { graph } = model;
  model.irVersion = 3;
  for (const { name, dims, dataType } of graph?.initializer ?? [])
    graph?.input?.push(
      onnx.ValueInfoProto.create({
        name: name ?? "",
        type: {
          tensorType: { elemType: dataType ?? 1, shape: { dim: (dims ?? []).map((dimValue) => ({ dimValue })) } },
        },
      }),
    );
});

/** The last node in the branch that a constant condition takes. */
const branched = changed(plain, ({ graph }) => {
  const last = graph?.node?.find(({ output }) => output?.includes("logits"));
  if (!graph?.node || !last?.output) throw new Error("nothing makes the logits");
  last.output = ["inner"];
  const outputs = (name: string) => [{ name, type: { tensorType: { elemType: 1 } } }];
  const other = { opType: "Neg", input: ["images"], output: ["never"] };
  graph.node = graph.node.filter((node) => node !== last);
  graph.initializer?.push(onnx.TensorProto.create({ name: "yes", dims: [], dataType: 9, rawData: Uint8Array.of(1) }));
  graph.node.push(
    onnx.NodeProto.create({
      opType: "If",
      input: ["yes"],
      output: ["logits"],
      attribute: [
        { name: "then_branch", type: 5, g: { name: "t", node: [last], output: outputs("inner") } },
        { name: "else_branch", type: 5, g: { name: "e", node: [other], output: outputs("never") } },
      ],
    }),
  );
});

/** … with a weight of that branch's own which is no number. */
const spoiltBranch = changed(branched, ({ graph }) => {
  const [taken] = graph?.node?.find(({ opType }) => opType === "If")?.attribute ?? [];
  const [last] = taken?.g?.node ?? [];
  if (!taken?.g || !last?.output) throw new Error("no branch");
  const bytes = new Uint8Array(Float32Array.of(Number.NaN).buffer);
  taken.g.initializer = [onnx.TensorProto.create({ name: "own", dims: [1], dataType: 1, rawData: bytes })];
  last.output = ["before"];
  taken.g.node?.push(onnx.NodeProto.create({ opType: "Add", input: ["before", "own"], output: ["inner"] }));
});

const disguises: readonly (readonly [string, () => Uint8Array, object, RegExp[]])[] = [
  ["plain", () => plain, {}, []],
  ["a batch of 2 that the file fixes", () => fileOf((x) => ({ y: scored(x) }), { dynamic: [] }), {}, []],
  ["weights among the inputs", () => listed, {}, []],
  ["an If of a constant", () => branched, {}, []],
  [
    "every dimension open",
    () => fileOf((x) => ({ logits: scored(x) }), { dynamic: ["batch_size", "num_channels", "height", "width"] }),
    { size: 8 },
    [/channels open/],
  ],
  [
    "features first, logits second",
    () => fileOf((x) => ({ embedding: featuresOf(x), logits: scored(x) })),
    {},
    [/logits is taken, since it has the dataset's 5 classes/],
  ],
  ["channels last", () => fileOf((x) => ({ dense: scored(nchw(x)) }), nhwc), {}, [/taken as NHWC/]],
  ["[B,C,1,1]", () => fileOf((x) => ({ y: reshape(scored(x), [-1, 5, 1, 1]) })), {}, []],
  [
    "bytes",
    () => fileOf((x) => ({ y: scored(div(nchw(cast(x, { to: "float32" })), 255)) }), { ...nhwc, dtype: "uint8" }),
    {},
    [/takes bytes/],
  ],
  ["pixels of 0 to 255, told", () => fileOf((x) => ({ y: scored(div(x, 255)) })), { mean: [0], std: [1 / 255] }, []],
  [
    "the label and probabilities",
    () =>
      fileOf((x) => ({
        label: argMax(scored(x), { axis: 1, keepdims: 0 }),
        probabilities: softmax(scored(x), { axis: 1 }),
      })),
    {},
    [/seems to return probabilities/],
  ],
];

describe("the same figures, whatever the file looks like", () => {
  let known: Promise<number[]>;
  beforeAll(() => {
    known = judge(plain);
  });

  test("which are these", async () => {
    const [clean, attacked] = (await known) as [number, number];
    expect(clean).toBe(RIGHT);
    expect(attacked).toBeGreaterThan(0);
    expect(attacked).toBeLessThan(RIGHT);
  });

  test.each(disguises)("%s", async (_, bytes, more, expected) => {
    const right = await known;
    expect(await judge(bytes(), more)).toEqual(right);
    expect(warnings).toHaveLength(expected.length);
    expected.forEach((pattern, i) => {
      expect(warnings[i]).toMatch(pattern);
    });
  });

  test("float16 images and logits: the clean figure", async () => {
    const half = fileOf((x) => ({ y: cast(scored(cast(x, { to: "float32" })), { to: "float16" }) }), {
      dtype: "float16",
    });
    expect((await judge(half))[0]).toBe(RIGHT);
  });

  test("logits a hundred thousand times as large: PGD is fooled and that is said; AutoAttack is not", async () => {
    const attacks = { attacks: ["clean", "pgd5", "autoattack"], iterations: 10, queries: 20, targets: 2 };
    const right = await judge(plain, attacks);
    const scaled = await judge(
      fileOf((x) => ({ y: mul(scored(x), 1e5) })),
      attacks,
    );
    expect(warnings).toContainEqual(expect.stringMatching(/gradient is zero for \d+ of 20 images/));
    expect(scaled[1]).toBeGreaterThan(right[1]!);
    expect(scaled[2]).toBe(right[2]);
    const probabilities = fileOf((x) => ({ y: softmax(scored(x), { axis: 1 }) }));
    expect((await judge(probabilities, attacks))[2]).toBe(right[2]);
  });

  test("pixels of 0 to 255, not told: the hint names the flags that mend it", async () => {
    const [clean] = await judge(fileOf((x) => ({ y: scored(div(x, 255)) })));
    expect(clean).toBeLessThan(15);
    expect(warnings).toContainEqual(
      expect.stringMatching(/no better than chance.*with --mean 0 --std 0\.00392157 .* it is right for 66\.7 %/),
    );
  });
});

describe("what can't be judged is refused with a remedy", () => {
  const withInput = changed(plain, ({ graph }) => {
    graph?.input?.push(
      onnx.ValueInfoProto.create({
        name: "temperature",
        type: { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 1 }] } } },
      }),
    );
  });
  const optimised = changed(plain, (model) => {
    const node = model.graph?.node?.find(({ opType }) => opType === "Conv");
    if (node) node.domain = "com.microsoft.nchwc";
    model.opsetImport?.push(onnx.OperatorSetIdProto.create({ domain: "com.microsoft.nchwc", version: 1 }));
  });
  test.each<[string, Uint8Array, RegExp]>([
    ["an encoder", fileOf((x) => ({ features: featuresOf(x) })), /has 6 classes but folder has 5/],
    [
      "a second input",
      withInput,
      /has 2 inputs \(images .*, temperature float32\[1\]\).*export it with the others as const/,
    ],
    ["NaN within a branch", spoiltBranch, /the weight own holds NaN/],
    [
      "ops of one runtime",
      optimised,
      /the domain com\.microsoft\.nchwc is not supported; export with standard ops only/,
    ],
    [
      "a row without its batch",
      fileOf((x) => ({ y: reshape(scored(x), [10]) }), { dynamic: [] }),
      /it gives y float32\[10\]/,
    ],
  ])("%s", async (_, bytes, message) => {
    await expect(judge(bytes)).rejects.toThrow(message);
  });
});

describe("hardening the same files", () => {
  const train = (bytes: Uint8Array) => {
    warnings.length = 0;
    const out = join(folder, `hard${written++}.onnx`);
    return harden({ from: write(bytes), dataset: "folder", data, out, epochs: 1, batch: 15, threads: 1 }, options);
  };
  test("a softmax at its end is warned of", async () => {
    await train(fileOf((x) => ({ y: softmax(scored(x), { axis: 1 }) })));
    expect(warnings).toContainEqual(expect.stringMatching(/seems to return probabilities/));
  });
  test("weights in float16 are refused by that name", async () => {
    const half = changed(plain, ({ graph }) => {
      for (const held of graph?.initializer ?? []) {
        if (held.dataType !== 1) continue;
        Object.assign(held, { dataType: 10, rawData: new Uint8Array((held.rawData?.length ?? 0) / 2) });
      }
      if (!graph?.node) throw new Error("no nodes");
      const [images] = graph.node[0]?.input ?? [];
      const last = graph.node.at(-1);
      if (images === undefined || !last?.output) throw new Error("no ends");
      for (const node of graph.node) node.input = (node.input ?? []).map((name) => (name === images ? "half" : name));
      last.output = ["halfLogits"];
      const to = (type: number) => [{ name: "to", type: 2, i: type }];
      graph.node.unshift(
        onnx.NodeProto.create({ opType: "Cast", input: [images], output: ["half"], attribute: to(10) }),
      );
      graph.node.push(
        onnx.NodeProto.create({ opType: "Cast", input: ["halfLogits"], output: ["logits"], attribute: to(1) }),
      );
    });
    await expect(train(half)).rejects.toThrow(
      /are float16, of which training loses the small steps; export the model in/,
    );
  });
  test("weights within a branch stay as they are, which is said", async () => {
    await train(branched);
    expect(warnings).toContainEqual(
      expect.stringMatching(/chooses between branches \(If\): weights that only a branch/),
    );
  });
  test("logits that are not finite are refused before anything is trained", async () => {
    const holed = fileOf((x) => ({ y: scored(div(x, x)) }));
    await expect(train(holed)).rejects.toThrow(/logits are not finite for \d+ of 30 test images.*mend it first/);
  });
});
