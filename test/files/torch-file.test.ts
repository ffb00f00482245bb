import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "@jest/globals";
import { readTorchCheckpoint, readTorchFile } from "../../src/files/torch-file.ts";

const file = fileURLToPath(new URL("../fixtures/torch/checkpoint.pt", import.meta.url));

/** As PyTorch wrote it before 1.6: `scripts/fixtures/torch_checkpoint.py --legacy`. */
const legacy = fileURLToPath(new URL("../fixtures/torch/legacy.pt", import.meta.url));

describe("a PyTorch checkpoint", () => {
  test.each([file, legacy])("gives its parameters, views and half types included (%s)", async (path) => {
    const { tensors, key, others } = await readTorchCheckpoint(path);
    expect([key, others]).toEqual(["state_dict", []]);
    const plain = Object.fromEntries(
      Array.from(tensors, ([name, { dtype, shape, data }]) => [
        name,
        [dtype, [...shape], Array.from(data as Float32Array)],
      ]),
    );
    expect(plain).toEqual({
      "module.plain": ["float32", [3, 4], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]],
      "module.transposed": ["float32", [4, 3], [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]],
      "module.slice": ["float32", [2, 2], [5, 6, 9, 10]],
      "module.parameter": ["float32", [2], [1.5, -2]],
      "module.half": ["float16", [2], [0x3800, 0x7bff]],
      "module.bfloat16": ["float32", [2], [1, -3]],
      "module.count": ["int64", [], [41n]],
      "module.empty": ["float32", [0, 3], []],
    });
  });

  test("that is damaged or of another kind is refused in one sentence", async () => {
    const folder = await mkdtemp(join(tmpdir(), "advcl-torch-"));
    const bytes = await readFile(file);
    const write = async (name: string, content: Uint8Array) => {
      await writeFile(join(folder, name), content);
      return readTorchFile(join(folder, name));
    };
    await expect(write("text.pt", Buffer.from("no checkpoint"))).rejects.toThrow(
      /text\.pt is a text, not a PyTorch checkpoint; load it in PyTorch and save/,
    );
    await expect(write("pickle.pt", Buffer.from("\x80\x02}.", "latin1"))).rejects.toThrow(
      /pickle\.pt is a Python pickle/,
    );
    await expect(write("short.pt", bytes.subarray(0, 700))).rejects.toThrow(
      /not a PyTorch checkpoint that can be read/,
    );
    await expect(readTorchFile(join(folder, "none.pt"))).rejects.toThrow(/does not exist/);
    const damaged = Buffer.from(bytes);
    for (let i = 60; i < 400; i += 7) damaged[i] = damaged[i]! ^ 0x55;
    await expect(write("damaged.pt", damaged)).rejects.toThrow(/not a PyTorch checkpoint/);
  });
});
