/** Every kernel's source, on every case of the emulator, compiled by NVRTC for the GPUs in use. It needs no GPU. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "@jest/globals";
import { type Attributes, apply, input, type Value } from "../../../graphs/onnx/graph.ts";
import { callOf, type Kernel, kernelOf } from "../../../graphs/targets/cuda/kernels/kernel.ts";
import { compileAll, compileCached, type Nvrtc, openNvrtc } from "../../../src/engine/native/nvrtc.ts";
import { kernelCases } from "../../graphs/targets/kernels/cases.ts";
import { available } from "../../needs.ts";

const nvrtc = openNvrtc();
const here = available("nvrtc", nvrtc !== undefined) ? describe : describe.skip;
const architectures = [75, 80, 86, 90, 100];
const folder = mkdtempSync(join(tmpdir(), "advcl-nvrtc-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Sources by case, and the architectures that they are compiled for: all, of each kernel's first case; one, of the others. */
const sources = new Map<string, { readonly source: string; readonly targets: readonly number[] }>();
for (const [name, cases] of Object.entries(kernelCases))
  for (const [i, { title, op, inputs, attributes = {} }] of cases.entries()) {
    const values = inputs.map(({ dtype, shape }, i) => input(`x${i}`, { dtype, shape }));
    const [result] = apply(op.definition, values, attributes as Attributes) as readonly [Value];
    const source = (kernelOf(op.definition) as Kernel).source(callOf(result.node));
    sources.set(`${name}, ${title}`, { source, targets: i === 0 ? architectures : [90] });
  }

here("NVRTC", () => {
  const compiler = nvrtc as Nvrtc;
  test("has code for the GPUs in use", () => {
    expect(architectures.filter((architecture) => !compiler.architectures.includes(architecture))).toEqual([]);
  });

  test.each([...sources])("compiles %s", async (_, { source, targets }) => {
    for (const architecture of targets) {
      const code = Buffer.from(await compiler.compile(source, architecture));
      expect(code.subarray(1, 4).toString()).toBe("ELF");
    }
  });

  test("says what it refuses, and for which GPU", async () => {
    await expect(compiler.compile('extern "C" __global__ void f() { g(); }', 90)).rejects.toThrow(
      /refuses a kernel for sm_90: .*"?g"?/,
    );
  });

  test("compiles several at once to what each is alone", async () => {
    const some = [...new Set([...sources.values()].map(({ source }) => source))].slice(-12);
    const together = await compileAll(compiler, some, 90, join(folder, "several"));
    expect([...together.keys()].sort()).toEqual([...some].sort());
    for (const source of some)
      expect(Buffer.from(together.get(source)!).equals(await compiler.compile(source, 90))).toBe(true);
    const wrong = 'extern "C" __global__ void f() { g(); }';
    await expect(compileAll(compiler, [some[0]!, wrong], 90, join(folder, "wrong"))).rejects.toThrow(
      /refuses a kernel/,
    );
  });

  test("keeps what it compiled, by source, architecture and version", async () => {
    const source = 'extern "C" __global__ void f() {}';
    let compiled = 0;
    const counting: Nvrtc = {
      ...compiler,
      compile: (text, architecture) => {
        compiled += 1;
        return compiler.compile(text, architecture);
      },
    };
    const at = (text: string, architecture: number, version = compiler.version, where = folder) =>
      compileCached({ ...counting, version }, text, architecture, where);
    const first = await at(source, 80);
    expect(Buffer.from(await at(source, 80)).equals(Buffer.from(first))).toBe(true);
    expect(compiled).toBe(1);
    await at(source, 90);
    await at(`${source} `, 80);
    await at(source, 80, "0.0");
    expect(compiled).toBe(4);
    expect(readdirSync(folder).filter((name) => name.endsWith(".cubin"))).toHaveLength(4);
    // A folder that cannot be made costs the cache only.
    writeFileSync(join(folder, "file"), "");
    expect((await at(source, 80, compiler.version, join(folder, "file", "cache"))).length).toBeGreaterThan(0);
  });
});
