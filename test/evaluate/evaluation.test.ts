/** Evaluation: figures, rows, resuming, warnings, files. */

import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterAll, describe, expect, test } from "@jest/globals";
import onnxProto from "onnx-proto";
import { constant, input, type Value } from "../../graphs/onnx/graph.ts";
import { parseModel } from "../../graphs/onnx/parse.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import {
  add,
  averagePool,
  div,
  log,
  mul,
  randomNormalLike,
  reduceSum,
  round,
  slice,
  softmax,
  sqrt,
  stopGradient,
  sub,
} from "../../graphs/ops/index.ts";
import type { Classifier } from "../../graphs/steps/evaluate.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { evaluateCommand } from "../../src/cli/commands/evaluate.ts";
import { checkClasses, parseAttacks } from "../../src/evaluate/attack-list.ts";
import type { Oracle } from "../../src/evaluate/attacks/oracle.ts";
import { openOracle } from "../../src/evaluate/attacks/programs.ts";
import { evaluateRobustness } from "../../src/evaluate/evaluation.ts";
import { wilsonInterval } from "../../src/evaluate/interval.ts";
import { evaluateRadii } from "../../src/evaluate/radii.ts";
import type { ChunkRecord, EvaluationLog, EvaluationProgress, EvaluationRequest } from "../../src/evaluate/types.ts";
import { readSafetensors } from "../../src/files/safetensors.ts";
import { imageInputOf } from "../../src/models/input.ts";
import { predictionOf } from "../../src/models/prediction.ts";
import { classes, convolutional, image, portably, randomImages } from "./models.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-evaluation-"));
const open: Oracle[] = [];
afterAll(async () => {
  for (const oracle of open) await oracle.release();
  rmSync(folder, { recursive: true });
});

const settings = {
  norm: "linf",
  eps: 0.012,
  stepSize: 0.003,
  restarts: 1,
  iterations: 8,
  targets: 2,
  queries: 30,
  seed: 1,
} as const;

/** An evaluation of random images, labelled as a model sees them but for every fifth. */
const requestFor = async (
  classifier: Classifier,
  more: Partial<EvaluationRequest> = {},
): Promise<EvaluationRequest> => {
  const oracle = openOracle({ classifier, image, batch: 4, fixed: true, load: portably });
  open.push(oracle);
  const given = randomImages(14);
  const answers = await oracle.answer(given.map(({ clean }) => ({ kind: "logits", x: clean })));
  const labels = Int32Array.from(answers, ({ logits }, i) => (predictionOf(logits) + (i % 5 === 4 ? 1 : 0)) % classes);
  return {
    oracle,
    images: { count: 14, shape: image, labels, index: Int32Array.from(labels.keys()), pixels: (i) => given[i]!.clean },
    attacks: parseAttacks(["clean", "fgsm", "pgd5", "apgd-ce", "apgd-t", "fab-t", "square", "autoattack"]),
    settings,
    log: recording(),
    signal: new AbortController().signal,
    progress: () => {},
    ...more,
  };
};
const recording = (): EvaluationLog & { readonly finished: Map<string, ChunkRecord> } => {
  const finished = new Map<string, ChunkRecord>();
  return { finished, append: (record) => void finished.set(`${record.stage}/${record.chunk}`, record) };
};

/** x, through which a gradient flows where the mask is 1 only. */
const blocked = (x: Value, mask: Value): Value => add(mul(x, mask), stopGradient(mul(x, sub(1, mask))));

test("within a radius of 0 lies the image alone", async () => {
  const request = await requestFor(convolutional(), { settings: { ...settings, eps: 0 } });
  const { figures } = (await evaluateRobustness(request))!;
  expect(figures.map(({ right, queries }) => [right, queries]).slice(1)).toEqual(figures.slice(1).map(() => [12, 0]));
});

test("several radii: each as if alone, clean images asked once, and a log that a second run goes on with", async () => {
  const log = recording();
  const attacks = parseAttacks(["clean", "pgd5", "autoattack"]);
  const base = await requestFor(convolutional(), { attacks, log });
  const radii = [0, 0.006, 0.012];
  const asked: string[] = [];
  const answer: Oracle["answer"] = (queries, steady) => {
    asked.push(queries[0]!.kind);
    return base.oracle.answer(queries, steady);
  };
  const request = { ...base, radii, settingsAt: (eps: number) => ({ ...settings, eps, stepSize: eps / 4 }) };
  const found = (await evaluateRadii(request))!;
  for (const [i, eps] of radii.entries()) {
    const alone = await evaluateRobustness({ ...base, log: recording(), settings: request.settingsAt(eps) });
    const figures = found.curve?.[i]?.attacks ?? {};
    expect(Object.values(figures).map(({ right }) => right)).toEqual(alone?.figures.map(({ right }) => right));
    if (eps === 0.012) expect(found.result.rows).toEqual(alone?.rows);
  }
  const accuracies = found.curve?.map(({ attacks: at }) => at.pgd5?.accuracy as number) as number[];
  expect(accuracies[0]).toBeGreaterThan(accuracies[2]!);
  const again = await evaluateRadii({ ...request, oracle: { ...base.oracle, answer }, log });
  expect(asked).toEqual([]);
  expect(again?.curve).toEqual(found.curve);
});

test("accuracy under AutoAttack is at most that under each of its parts, and every attack's at most clean's", async () => {
  const result = (await evaluateRobustness(await requestFor(convolutional())))!;
  const of = Object.fromEntries(result.figures.map((f) => [f.attack, f.right]));
  expect(of.clean).toBe(12);
  for (const part of ["apgd-ce", "apgd-t", "fab-t", "square"]) {
    expect(of[part]).toBeLessThanOrEqual(of.clean!);
    expect(of.autoattack).toBeLessThanOrEqual(of[part]!);
  }
  expect(of.autoattack).toBeLessThan(of.clean!);
  expect(result.warnings).toEqual([]);
  expect(result.rows).toHaveLength(14);
  expect(result.rows[4]).toMatchObject({ brokenBy: "clean", attacks: {} });
  for (const row of result.rows) {
    const broken = Object.entries(row.attacks).find(([, o]) => o.broken);
    if (row.brokenBy !== "clean") expect(row.brokenBy).toBe(broken?.[0] ?? null);
    for (const o of Object.values(row.attacks)) expect(o.norm).toBeLessThanOrEqual(settings.eps + 1e-6);
  }
});

test("progress never falls, ends at all, and comes from within a batch too", async () => {
  const updates: EvaluationProgress[] = [];
  const request = await requestFor(convolutional(), { progress: (update) => void updates.push(update) });
  const result = (await evaluateRobustness(request))!;
  updates.forEach(({ share }, i) => {
    expect(share).toBeGreaterThanOrEqual(updates[i - 1]?.share ?? 0);
  });
  expect(updates.at(-1)).toMatchObject({
    stage: "autoattack/square",
    share: 1,
    accuracy: result.figures.at(-1)?.accuracy,
  });
  expect(updates.length).toBeGreaterThan(2 * (request.log as ReturnType<typeof recording>).finished.size);
  expect(result.figures.map(({ attacked }) => attacked)).toEqual([14, ...Array.from({ length: 7 }, () => 12)]);
});

test("a run that is cut off and resumed ends with the same rows", async () => {
  const whole = (await evaluateRobustness(await requestFor(convolutional())))!;
  const log = recording();
  const controller = new AbortController();
  const cut = {
    ...log,
    append: (record: ChunkRecord) => {
      log.append(record);
      if (record.stage === "autoattack/apgd-t") controller.abort();
    },
  };
  expect(
    await evaluateRobustness(await requestFor(convolutional(), { log: cut, signal: controller.signal })),
  ).toBeUndefined();
  const done = log.finished.size;
  expect(done).toBeGreaterThan(10);
  const rest = (await evaluateRobustness(await requestFor(convolutional(), { log })))!;
  expect(log.finished.size).toBeGreaterThan(done);
  expect(rest.rows).toEqual(whole.rows);
  expect(rest.figures).toEqual(whole.figures);
});

test("eps 0 leaves accuracy as it is", async () => {
  const attacks = parseAttacks(["clean", "fgsm", "pgd5", "apgd-ce", "square"]);
  const request = await requestFor(convolutional(), { attacks, settings: { ...settings, eps: 0, stepSize: 0 } });
  const { figures } = (await evaluateRobustness(request))!;
  expect(figures.map(({ right }) => right)).toEqual([12, 12, 12, 12, 12]);
});

describe("models that gradient attacks cannot judge are flagged", () => {
  const warningsOf = async (classifier: Classifier) =>
    (await evaluateRobustness(await requestFor(classifier, { attacks: parseAttacks(["clean", "pgd5", "apgd-ce"]) })))!
      .warnings;
  test("logits × 10⁶ have no gradient", async () => {
    const base = convolutional();
    const warnings = await warningsOf((x) => mul(base(x), 1e6));
    expect(warnings.some((w) => /gradient is zero/.test(w))).toBe(true);
  });
  test("pixels that are rounded have no gradient: only Square can break them", async () => {
    const base = convolutional();
    const rounding = (x: Value) => base(div(round(mul(x, 32)), 32));
    const attacks = parseAttacks(["clean", "fgsm", "pgd5", "autoattack"]);
    const more = { attacks, settings: { ...settings, eps: 0.1, queries: 100 } };
    const { figures, warnings } = (await evaluateRobustness(await requestFor(rounding, more)))!;
    expect(figures.map(({ right }) => right).slice(0, 2)).toEqual([12, 12]);
    expect(warnings).toContainEqual(expect.stringMatching(/gradient is zero for 12 of 12/));
    expect(warnings).toContainEqual(expect.stringMatching(/Square, which needs no gradients, broke/));
  });
  test("logits that are not finite are no right answer", async () => {
    const base = convolutional();
    const infinite = (x: Value) => log(softmax(mul(base(x), 1e6)));
    const request = await requestFor(infinite, { attacks: parseAttacks(["clean", "pgd5"]) });
    const labels = request.images.labels.map((label) => Math.max(0, label));
    const { figures, warnings } = (await evaluateRobustness({ ...request, images: { ...request.images, labels } }))!;
    expect(warnings).toContainEqual(expect.stringMatching(/logits are not finite for 14 of 14 images: they count as/));
    expect(figures.map(({ right }) => right)).toEqual([0, 0]);
  });
  test("gradients of which nothing is finite, behind logits that are: attacks by gradients are refused, others run", async () => {
    const base = convolutional();
    const blind = (x: Value) => add(base(x), reduceSum(mul(sqrt(mul(x, 0)), 0), { keepdims: 0 }));
    const refused = evaluateRobustness(await requestFor(blind, { attacks: parseAttacks(["clean", "pgd5", "square"]) }));
    await expect(refused).rejects.toThrow(
      /gradients are not finite for 12 of 12 images, so pgd5 can't judge it; give --attacks clean,square/,
    );
    const request = await requestFor(blind, { attacks: parseAttacks(["clean", "square"]) });
    expect((await evaluateRobustness(request))?.figures.map(({ right }) => right)[0]).toBe(12);
  });
  test("gradients of which one pixel is not finite: the others are followed as if that one had none", async () => {
    const base = convolutional();
    const mask = Float32Array.from({ length: 128 }, (_, i) => Number(i > 0));
    const first = constant(float32([1, ...image], mask));
    // At 0 a square root has an infinite gradient, which times 0 is NaN: of the first pixel alone.
    const spoilt = (x: Value) => add(base(x), reduceSum(mul(sqrt(mul(add(x, 0.5), first)), 0), { keepdims: 0 }));
    const attacks = parseAttacks(["clean", "fgsm", "pgd5", "apgd-ce", "apgd-t"]);
    const { figures, warnings } = (await evaluateRobustness(await requestFor(spoilt, { attacks })))!;
    const plain = (await evaluateRobustness(await requestFor((x) => base(blocked(x, first)), { attacks })))!;
    expect(figures.map(({ right }) => right)).toEqual(plain.figures.map(({ right }) => right));
    expect(figures[2]?.right).toBeLessThan(12);
    expect(warnings).toContainEqual(expect.stringMatching(/gradients are not finite for 12 of 12 images: what is not/));
    expect(warnings.filter((warning) => /left the ball/.test(warning))).toEqual([]);
  });
  test("random logits", async () => {
    const base = convolutional();
    const noisy = (x: Value) => add(base(x), mul(randomNormalLike(base(x), { mean: 0, scale: 0.3 } as object), 1));
    expect((await warningsOf(noisy)).some((w) => /output is random/.test(w))).toBe(true);
  });
  test("logits that are random for an image of a later batch", async () => {
    const base = convolutional();
    const request = await requestFor(base, { attacks: parseAttacks(["clean", "pgd5"]) });
    const { oracle } = request;
    const last = request.images.pixels(13);
    let shift = 0;
    const answer: Oracle["answer"] = async (queries, steady) => {
      const answers = await oracle.answer(queries, steady);
      shift++;
      return answers.map((one, k) =>
        queries[k]!.x === last ? { ...one, logits: one.logits.map((v) => v + shift) } : one,
      );
    };
    const noisy = { ...oracle, answer, lanes: [{ ...oracle, answer }] };
    const { warnings } = (await evaluateRobustness({ ...request, oracle: noisy }))!;
    expect(warnings).toContainEqual(expect.stringMatching(/output is random \(1 of 12 images/));
  });
  test("probabilities", async () => {
    const base = convolutional();
    expect((await warningsOf((x) => softmax(base(x)))).some((w) => /probabilities/.test(w))).toBe(true);
  });
});

test("attacks are named strictly", () => {
  expect(parseAttacks(["clean", "pgd20", "pgd20"])).toEqual([
    { kind: "clean", name: "clean" },
    { kind: "pgd", steps: 20, name: "pgd20" },
  ]);
  expect(() => parseAttacks(["pdg20"])).toThrow(
    'attacks names "pdg20"; there are clean, fgsm, apgd-ce, apgd-dlr, apgd-t, fab-t, square, autoattack and pgdN (pgd20); did you mean pgd20?',
  );
  expect(() => checkClasses(parseAttacks(["clean", "autoattack"]), 3)).toThrow("autoattack needs 4 classes");
});

test("Wilson's interval", () => {
  const [low, high] = wilsonInterval(81, 263);
  expect(low).toBeCloseTo(0.2553, 4);
  expect(high).toBeCloseTo(0.3662, 4);
  expect(wilsonInterval(0, 10)[0]).toBe(0);
  expect(wilsonInterval(10, 10)[1]).toBeCloseTo(1, 12);
});

describe("the command", () => {
  const model = join(folder, "model.onnx");
  const write = () => {
    const x = input("images", { dtype: "float32", shape: [1, 3, 16, 16] });
    const base = convolutional(1, 10);
    // Two of three channels and half the size, as the small model has it.
    const small = averagePool(x, { kernel_shape: [2, 2], strides: [2, 2] });
    const logits = base(sliceChannels(small));
    writeFileSync(model, buildModel(lower({ logits }, portable), [x]).bytes);
  };
  const run = async (...args: string[]) => {
    const [stdout, stderr] = [new PassThrough(), new PassThrough()];
    let [out, err] = ["", ""];
    stdout.on("data", (text: Buffer) => {
      out += text.toString();
    });
    stderr.on("data", (text: Buffer) => {
      err += text.toString();
    });
    const code = await evaluateCommand.execute(["--model", model, "--dataset", "shapes", "--threads", "1", ...args], {
      stdout,
      stderr,
    });
    await new Promise((done) => setImmediate(done));
    return { code, out, err };
  };
  const attacks = [
    "--attacks",
    "clean,pgd5,autoattack",
    "--queries",
    "10",
    "--iterations",
    "4",
    "--targets",
    "2",
    "--limit",
    "40",
    "--eps",
    "0.05",
  ];

  test("writes rows, figures, pictures and images; resumes to the same bytes", async () => {
    write();
    const first = join(folder, "first");
    const { code, out } = await run(...attacks, "--out", first, "--json", "--save-adversarial");
    expect(code).toBe(0);
    const summary = JSON.parse(out.trim().split("\n").at(-1)!);
    expect(summary.count).toBe(40);
    expect(summary.attacks.autoattack.accuracy).toBeLessThanOrEqual(summary.attacks.pgd5.accuracy);
    expect(Object.keys(summary.attacks.autoattack.parts)).toEqual(["apgd-ce", "apgd-t", "fab-t", "square"]);
    expect(existsSync(join(first, "attacks.png"))).toBe(summary.attacks.clean.right > 0);
    const rows = readFileSync(join(first, "images.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(rows).toHaveLength(40);
    const { tensors } = await readSafetensors(join(first, "adversarial", "pgd5.safetensors"));
    expect(tensors.get("x")!.shape).toEqual([summary.attacks.clean.right, 3, 16, 16]);

    const second = join(folder, "second");
    cpSync(first, second, { recursive: true });
    const lines = readFileSync(join(first, "finished.jsonl"), "utf8").split("\n");
    // Killed in the middle of writing a line.
    writeFileSync(join(second, "finished.jsonl"), `${lines.slice(0, -4).join("\n")}\n${lines.at(-3)!.slice(0, 20)}`);
    for (const name of ["images.jsonl", "evaluation.json", "attacks.png"]) rmSync(join(second, name), { force: true });
    await expect(run(...attacks, "--out", second)).rejects.toThrow("--resume");
    await run(...attacks, "--save-adversarial", "--out", second, "--resume");
    for (const name of ["images.jsonl", "evaluation.json", "finished.jsonl"])
      expect(readFileSync(join(second, name), "utf8")).toBe(readFileSync(join(first, name), "utf8"));
  });

  test("a line of the log that was changed is refused with the remedy", async () => {
    write();
    const out = join(folder, "changed");
    await run("--attacks", "clean", "--limit", "8", "--out", out);
    const log = join(out, "finished.jsonl");
    const text = readFileSync(log, "utf8");
    writeFileSync(log, text.replace('"broken"', '"brokem"'));
    await expect(run("--attacks", "clean", "--limit", "8", "--out", out, "--resume")).rejects.toThrow(
      `${log} is damaged or was changed in line 2; remove that line, and its images are attacked again`,
    );
    writeFileSync(log, `${text.split("\n")[0]}\n`);
    await run("--attacks", "clean", "--limit", "8", "--out", out, "--resume");
    expect(readFileSync(log, "utf8")).toBe(text);
  });

  test("several radii give a curve, in the result and in the report", async () => {
    write();
    const out = join(folder, "radii");
    const { out: printed, err } = await run(
      "--attacks",
      "clean,pgd5",
      "--limit",
      "20",
      "--eps",
      "0,2/255,0.05",
      "--json",
      "--out",
      out,
    );
    const summary = JSON.parse(printed.trim().split("\n").at(-1)!);
    expect(summary.eps).toBe(0.05);
    expect(summary.curve.map(({ eps }: { eps: number }) => eps)).toEqual([0, 2 / 255, 0.05]);
    expect(summary.curve[2].attacks).toEqual(summary.attacks);
    expect(summary.curve[0].attacks.pgd5.accuracy).toBe(summary.attacks.clean.accuracy);
    expect(err).toMatch(/radius +clean % +pgd5 %\n0\/255 .*\n2\/255 .*\n12\.75\/255 /);
    const report = readFileSync(join(out, "report.html"), "utf8");
    expect(report).toContain("Accuracy against radius");
  });

  test("an export's own dataset is taken where none is asked for, and that is said", async () => {
    write();
    const bytes = readFileSync(model);
    const file = onnxProto.onnx.ModelProto.decode(bytes);
    file.metadataProps = [onnxProto.onnx.StringStringEntryProto.create({ key: "dataset", value: "shapes" })];
    writeFileSync(model, onnxProto.onnx.ModelProto.encode(file).finish());
    const [stdout, stderr] = [new PassThrough(), new PassThrough()];
    let err = "";
    stderr.on("data", (text: Buffer) => {
      err += text.toString();
    });
    const plain = ["--model", model, "--threads", "1", "--attacks", "clean", "--limit", "10"];
    expect(await evaluateCommand.execute(plain, { stdout, stderr })).toBe(0);
    expect(err).toMatch(/images of shapes, which model\.onnx was trained on; --dataset takes others/);
    writeFileSync(model, bytes);
    await expect(evaluateCommand.execute(plain, { stdout, stderr })).rejects.toThrow(/dataset cifar10 needs --data/);
  });

  test("corruptions from .npy files", async () => {
    write();
    const data = join(folder, "corrupted");
    rmSync(data, { recursive: true, force: true });
    const npy = (name: string, descr: string, shape: number[], bytes: Uint8Array) => {
      const header = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
      const padded = `${header.padEnd(117)}\n`;
      const start = Buffer.from(`\x93NUMPY\x01\x00${String.fromCharCode(padded.length, 0)}${padded}`, "latin1");
      writeFileSync(join(data, `${name}.npy`), Buffer.concat([start, bytes]));
    };
    mkdirSync(data);
    const pixels = Uint8Array.from({ length: 10 * 16 * 16 * 3 }, (_, i) => (i * 97) % 256);
    npy("fog", "|u1", [10, 16, 16, 3], pixels);
    npy(
      "frost",
      "|u1",
      [10, 16, 16, 3],
      pixels.map((v) => 255 - v),
    );
    npy(
      "labels",
      "|u1",
      [10],
      Uint8Array.from({ length: 10 }, (_, i) => i % 5),
    );
    const { out } = await run("--attacks", "clean", "--limit", "8", "--corruptions-data", data, "--json");
    const { corruptions } = JSON.parse(out.trim().split("\n").at(-1)!);
    expect(Object.keys(corruptions.byCorruption)).toEqual(["fog", "frost"]);
    expect(corruptions.accuracy).toBeCloseTo((corruptions.byCorruption.fog + corruptions.byCorruption.frost) / 2, 9);
  });

  test("refuses in a sentence", async () => {
    write();
    await expect(run("--attacks", "pdg20")).rejects.toThrow("pgdN");
    await expect(run("--attacks", "corruptions")).rejects.toThrow("--corruptions-data");
    await expect(run("--corruptions-data", join(folder, "nowhere"))).rejects.toThrow("does not exist");
    await expect(run("--save-adversarial")).rejects.toThrow("--save-adversarial needs --out");
    await expect(run("--branch", "pgd")).rejects.toThrow("--branch is of a run");
    await expect(run("--target", "gpu")).rejects.toThrow("must be portable");
    await expect(run("--model", join(folder, "nothing.onnx"))).rejects.toThrow("does not exist");
    const text = join(folder, "text.onnx");
    writeFileSync(text, "not a model");
    await expect(run("--model", text)).rejects.toThrow(
      `${text} is a text, not an ONNX model; export the model with torch.onnx.export`,
    );
    const file = parseModel(readFileSync(model));
    const empty = { ...file, inputs: [{ name: "pixels", dtype: "float32" as const, dims: [0, 3, 32, 32] }] };
    expect(() => imageInputOf(empty, "empty.onnx")).toThrow("[0,3,32,32], which holds no image");
  });
});

const sliceChannels = (x: Value): Value => slice(x, [{ axis: 1, start: 0, end: 2 }]);
