/**
 * The logits of exported models in other runtimes, beside those of the run that they come from and those of the same file
 * computed op by op (onnxruntime-node without optimisation: what an int8 file says).
 *
 *   node dist/scripts/parity/compare-runtimes.js --from RUN [--dataset cifar10 --data PATH] [--images 32]
 *     [--python PYTHON]       with onnx, onnxruntime, openvino, numpy
 *     [--tract BINARY]        of scripts/fixtures/tract, built by cargo build --release
 *     [--older-python PYTHON] another of these, with older versions
 *     [--java ONNXRUNTIME.jar]
 *     [--chromium /usr/bin/chromium]
 *
 * Encoder and, where the run has one, classifier. Without a flag its runtimes are left out. Prints a table, and fails where
 * float32 differs by more than 1e-4 or in the place of the largest output.
 */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, delimiter, dirname, join } from "node:path";
import { promisify } from "node:util";
import { chromium } from "playwright-core";
import { type NetworkPart, outputName } from "../../graphs/deploy/network.ts";
import { float32, type Tensor } from "../../graphs/onnx/tensor.ts";
import { type DatasetName, loadDataset } from "../../src/data/dataset.ts";
import { buildExport, type Precision, precisions } from "../../src/deploy/model.ts";
import { runReference } from "../../src/deploy/reference.ts";
import { deployedOptions, openSource } from "../../src/deploy/source.ts";
import { runInWeb } from "../../src/deploy/web.ts";
import { createSession, type SessionOptions } from "../../src/engine/session.ts";
import { RequestError } from "../../src/errors.ts";
import { imageBatch } from "../../src/models/images.ts";
import { predictionsOf } from "../../src/models/prediction.ts";
import { servePage } from "../../src/serve/server.ts";
import { packageRoot } from "../../src/version.ts";
import { readFlags } from "../flags.ts";

const run = promisify(execFile);
const { values: flags } = readFlags(import.meta.url, {
  options: {
    from: { type: "string" },
    dataset: { type: "string" },
    data: { type: "string" },
    images: { type: "string", default: "32" },
    python: { type: "string" },
    "older-python": { type: "string" },
    tract: { type: "string" },
    java: { type: "string" },
    chromium: { type: "string" },
  },
});
const require = createRequire(import.meta.url);
/** Version of an npm package. */
const installed = (name: string): string => require(join(packageRoot, "node_modules", name, "package.json")).version;
const lockFile = readFileSync(join(packageRoot, "scripts", "fixtures", "tract", "Cargo.lock"), "utf8");
const tractVersion = /name = "tract-onnx"\nversion = "([^"]+)"/.exec(lockFile)?.[1] ?? "";
const { from } = flags;
if (from === undefined) throw new RequestError("give --from RUN");

const source = await openSource(from, "auto", console.warn);
const { settings } = source.run.config;
const load = (split: "train" | "test", limit: number) =>
  loadDataset({
    name: (flags.dataset ?? settings.dataset ?? "shapes") as DatasetName,
    data: flags.data ?? (settings.data as string | undefined),
    split,
    size: source.network.size,
    limit,
  });
const images = await load("test", Number(flags.images));
const calibration = await load("train", 256); // as many as `advcl export` takes
const image = imageBatch(images, 0, images.count);

interface Row {
  readonly what: NetworkPart;
  readonly runtime: string;
  readonly precision: Precision;
  /** What it gave, or why it gave nothing. */
  readonly result: Float32Array | string;
  readonly expected: Float32Array;
  /** What the file gives op by op. */
  readonly exact: Float32Array;
}

/** Of what is only checked. */
const passed = new Float32Array(0);

/** What every runtime makes of the exported encoder or classifier. */
const compare = async (what: NetworkPart): Promise<Row[]> => {
  const options = deployedOptions(source, what, from);
  const models = new Map<Precision, Uint8Array>();
  for (const precision of precisions) {
    const chosen = { ...options, precision, io: "float32", preprocess: false, metadata: { source: from } } as const;
    models.set(precision, (await buildExport(chosen, source.weights, source.branch?.index, calibration)).bytes);
  }

  const folder = await mkdtemp(join(tmpdir(), "advcl-compare-"));
  const output = outputName(what);
  const rows: Row[] = [];
  const expected = await runReference(source, what, image);
  const inNode = async (bytes: Uint8Array, options: SessionOptions = {}): Promise<Float32Array> => {
    const session = await createSession(bytes, options);
    const results = await session.run({ image });
    await session.release();
    return results[output]?.data as Float32Array;
  };
  const exact = new Map<Precision, Float32Array>();
  for (const [precision, bytes] of models) exact.set(precision, await inNode(bytes, { optimization: "disabled" }));
  const take = async (runtime: string, precision: Precision, make: () => Promise<Float32Array>) => {
    const result = await make().catch((error: unknown) => String(error).split("\n")[0] ?? "failed");
    rows.push({ what, runtime, precision, result, expected, exact: exact.get(precision) as Float32Array });
  };
  const raw = async (path: string): Promise<Float32Array> =>
    new Float32Array(Uint8Array.from(await readFile(path)).buffer);

  try {
    await writeFile(join(folder, "image.bin"), new Uint8Array(image.data.buffer));
    for (const [precision, bytes] of models) await writeFile(join(folder, `${precision}.onnx`), bytes);
    await writeFile(join(folder, "job.json"), JSON.stringify({ shape: image.shape, models: precisions }));
    const job = (precision: Precision, runtime: string) => [
      join(folder, `${precision}.onnx`),
      join(folder, "image.bin"),
      join(folder, `${precision}.${runtime}.bin`),
      ...image.shape.map(String),
    ];

    for (const [precision, bytes] of models) {
      await take(`onnxruntime-node ${installed("onnxruntime-node")}`, precision, () => inNode(bytes));
      await take(
        `onnxruntime-web ${installed("onnxruntime-web")} (Node)`,
        precision,
        async () => (await runInWeb(bytes, { image }))[output]?.data as Float32Array,
      );
      await take(
        `onnxruntime-web ${installed("onnxruntime-training-web")} (Node)`,
        precision,
        async () => (await runInWeb(bytes, { image }, "onnxruntime-training-web"))[output]?.data as Float32Array,
      );
    }

    if (flags.chromium !== undefined) {
      const engine = dirname(require.resolve("onnxruntime-web"));
      const files = new Map<string, Uint8Array | { path: string }>([
        ["index.html", Buffer.from("<!doctype html><title>compare</title>")],
        ["image.bin", new Uint8Array(image.data.buffer)],
      ]);
      for (const name of ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"])
        files.set(name, { path: join(engine, name) });
      for (const [precision, bytes] of models) files.set(`${precision}.onnx`, bytes);
      const page = await servePage(files, { host: "127.0.0.1", port: 0 });
      const browser = await chromium.launch({
        executablePath: flags.chromium,
        args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
      });
      const tab = await browser.newPage();
      await tab.goto(page.url);
      for (const precision of models.keys())
        await take(`onnxruntime-web (Chromium ${browser.version()})`, precision, async () => {
          const found = await tab.evaluate(`(async () => {
          const ort = await import("/ort.wasm.min.mjs");
          ort.env.wasm.wasmPaths = "/";
          ort.env.wasm.numThreads = 1;
          const session = await ort.InferenceSession.create("/${precision}.onnx");
          const data = new Float32Array(await (await fetch("/image.bin")).arrayBuffer());
          const results = await session.run({ image: new ort.Tensor("float32", data, ${JSON.stringify(image.shape)}) });
          return Array.from(results.${output}.data);
        })()`);
          return Float32Array.from(found as number[]);
        });
      await browser.close();
      await page.close();
    }

    for (const python of [flags.python, flags["older-python"]].filter((given) => given !== undefined)) {
      const script = join(packageRoot, "scripts", "fixtures", "runtimes.py");
      const { stdout } = await run(python, ["-W", "ignore", script, folder], { maxBuffer: 2 ** 26 });
      const report = JSON.parse(stdout.trim().split("\n").at(-1) as string) as {
        versions: Record<string, string>;
        faults: Record<string, string>;
      };
      for (const precision of precisions) {
        const checker = report.faults[`${precision} onnx.checker`];
        await take(`onnx.checker ${report.versions["onnx.checker"]}`, precision, async () => {
          if (checker !== undefined) throw new Error(checker);
          return passed;
        });
        for (const runtime of Object.keys(report.versions).filter((name) => name !== "onnx.checker"))
          await take(`${runtime} ${report.versions[runtime]}`, precision, async () => {
            const fault = report.faults[`${precision} ${runtime}`];
            if (fault !== undefined) throw new Error(fault);
            return raw(join(folder, `${precision}.${runtime}.bin`));
          });
      }
    }

    const { tract, java } = flags;
    if (tract !== undefined)
      for (const precision of precisions)
        await take(`tract ${tractVersion}`, precision, async () => {
          await run(tract, job(precision, "tract"));
          return raw(join(folder, `${precision}.tract.bin`));
        });
    if (java !== undefined) {
      const program = join(packageRoot, "scripts", "fixtures", "java", "Logits.java");
      await run("javac", ["-cp", java, "-d", folder, program]);
      for (const precision of precisions)
        await take(`onnxruntime (Java) ${/[\d.]+\d/.exec(basename(java))?.[0] ?? ""}`, precision, async () => {
          await run("java", ["-cp", [java, folder].join(delimiter), "Logits", ...job(precision, "java")]);
          return raw(join(folder, `${precision}.java.bin`));
        });
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }

  return rows;
};

const rows: Row[] = [];
for (const what of source.classes === undefined ? (["encoder"] as const) : (["encoder", "classifier"] as const))
  rows.push(...(await compare(what)));

const top = (values: Float32Array): number[] =>
  predictionsOf(float32([images.count, values.length / images.count], values) as Tensor);
let failed = false;
const lines = rows
  .sort((a, b) => precisions.indexOf(a.precision) - precisions.indexOf(b.precision))
  .map(({ what, runtime, precision, result, expected, exact }) => {
    if (typeof result === "string") {
      failed ||= precision === "fp32";
      return [precision, what, runtime, "failed", "", result.slice(0, 120)];
    }
    if (result === passed) return [precision, what, runtime, "passes", "", ""];
    const wanted = top(expected);
    const furthest = (from: Float32Array) =>
      result.reduce((largest, v, i) => Math.max(largest, Math.abs(v - from[i]!)), 0);
    const worst = furthest(expected);
    const same = top(result).filter((c, i) => c === wanted[i]).length;
    const good = worst <= 1e-4 && same === images.count && result.length === expected.length;
    failed ||= precision === "fp32" && !good;
    const figures = [worst.toExponential(1), furthest(exact).toExponential(1)];
    return [precision, what, runtime, ...figures, `${same}/${images.count}`];
  });
const heads = ["precision", "model", "runtime", "from the run", "from the file op by op", "same top-1"];
const widths = heads.map((head, i) => Math.max(head.length, ...lines.map((line) => line[i]!.length)));
const rule = widths.map((width) => "-".repeat(width));
for (const line of [heads, rule, ...lines])
  console.log(`| ${line.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`);
process.exitCode = failed ? 1 : 0;
