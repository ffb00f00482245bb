import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { tensor } from "../../graphs/onnx/tensor.ts";
import { encodeSafetensors } from "../../src/files/safetensors.ts";
import { type FileKind, misfit, sniff, sniffFile } from "../../src/files/sniff.ts";
import { readWeights } from "../../src/files/weights.ts";

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
const lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
const weights = encodeSafetensors({ a: tensor("float32", [2], Float32Array.of(1, 2)) });

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "advcl-sniff-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

const latin = (text: string): Buffer => Buffer.from(text, "latin1");

const kinds: readonly (readonly [FileKind, Uint8Array])[] = [
  ["empty", new Uint8Array(0)],
  ["safetensors", weights],
  ["zip", latin(`PK\x03\x04${"\0".repeat(22)}\x05\0\0\0a.txt`)],
  ["npz", latin(`PK\x03\x04${"\0".repeat(22)}\x05\0\0\0a.npy`)],
  ["gzip", gzipSync("hello")],
  ["xz", latin("\xfd7zXZ\0")],
  ["npy", latin("\x93NUMPY\x01\0")],
  ["pickle", latin("\x80\x04}.")],
  ["png", latin("\x89PNG\r\n\x1a\n")],
  ["jpeg", latin("\xff\xd8\xff\xe0")],
  ["webp", latin("RIFF\x10\0\0\0WEBP")],
  ["git-lfs", Buffer.from(lfs)],
  ["html", Buffer.from("\n<!DOCTYPE html><title>404</title>")],
  ["html", Buffer.from("\ufeff<HTML>")],
  ["svg", Buffer.from("<?xml version='1.0'?><svg/>")],
  ["json", Buffer.from(' {"a": 1}')],
  ["text", Buffer.from("1,2,3\n4,5,6\n")],
  ["apple-double", latin("\0\x05\x16\x07\0\x02\0\0")],
  ["tar", Buffer.concat([Buffer.alloc(257), Buffer.from("ustar"), Buffer.alloc(250)])],
  ["unknown", latin("\x01\x02\x03\x04")],
];
test.each(kinds)("%s is told by its first bytes", (kind, bytes) => {
  expect(sniff(bytes)).toBe(kind);
});

test.each([
  ["torch/checkpoint.pt", "torch"],
  ["torch/legacy.pt", "legacy-torch"],
  ["teacher/net.onnx", "onnx"],
  ["harden/small.onnx", "onnx"],
  ["python.safetensors", "safetensors"],
] as const)("so is %s", async (name, kind) => {
  expect((await sniffFile(fixture(name))).kind).toBe(kind);
});

test("weights are read whatever their suffix", async () => {
  const write = async (name: string, bytes: Uint8Array | string) => {
    await writeFile(join(folder, name), bytes);
    return readWeights(join(folder, name));
  };
  const swapped = await write("weights.pt", weights);
  expect([swapped.description, [...swapped.tensors.keys()]]).toEqual(["safetensors", ["a"]]);
  const torch = await write("torch.safetensors", await readFile(fixture("torch/checkpoint.pt")));
  expect(torch.description).toBe("a PyTorch checkpoint, of which state_dict was read");
  const old = await write("old.bin", await readFile(fixture("torch/legacy.pt")));
  expect(old.description).toBe("a PyTorch checkpoint of before PyTorch 1.6, of which state_dict was read");
  await expect(write("w.pth", lfs)).rejects.toThrow(
    /w\.pth is a Git LFS pointer, which only stands for the file, not a file of weights; fetch it with git lfs pull$/,
  );
  await expect(write("w.safetensors", "<html>404</html>")).rejects.toThrow(/is an HTML page, not a file of weights/);
  await expect(write("e.pt", "")).rejects.toThrow(/e\.pt is empty/);
  await expect(write("model.pt", await readFile(fixture("teacher/net.onnx")))).rejects.toThrow(/is an ONNX model, not/);
});

test("a refusal says what the file is, what was wanted and what to do", () => {
  expect(misfit("f", "json", "a model", "give another").message).toBe("f is a JSON text, not a model; give another");
  expect(misfit("f", "gzip", "a model", "give another").message).toBe(
    "f is gzip-compressed, not a model; unpack it with gunzip first",
  );
});
