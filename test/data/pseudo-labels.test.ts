import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { tensor } from "../../graphs/onnx/tensor.ts";
import { type Dataset, loadDataset } from "../../src/data/dataset.ts";
import { officialDigests } from "../../src/data/digest.ts";
import { checkPseudoLabels, pseudoLabels, readPseudoLabels, writePseudoLabels } from "../../src/data/pseudo-labels.ts";
import { subset } from "../../src/data/subset.ts";
import { RequestError } from "../../src/errors.ts";
import { writeSafetensors } from "../../src/files/safetensors.ts";
import { available } from "../needs.ts";

let root = "";
const at = (name: string): string => join(root, name);

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "advcl-pseudo-"));
});

afterAll(async () => {
  await rm(root, { recursive: true });
});

const two = Int32Array.of(0, 1, 1, 0);
const ten = Int32Array.of(9, 3, 0, 5);
const both = pseudoLabels(
  new Map([
    [10, ten],
    [2, two],
  ]),
  "here",
);

test("written and read again", async () => {
  await writePseudoLabels(at("labels.safetensors"), both, { teacher: "simclr" });
  const read = await readPseudoLabels(at("labels.safetensors"));
  expect(read.ks).toEqual([2, 10]);
  expect(read.count).toBe(4);
  expect(read.labels(10)).toEqual(ten);
  expect(() => read.labels(50)).toThrow(/none for K = 50; it has K = 2, 10/);
});

/** `pickle.dumps({"pseudo_train_2": …, "pseudo_test_10": …}, protocol)` of int32 arrays where the name says no other type. */
const pickles: [string, string][] = [
  [
    "protocol 0, numpy 2",
    "KGRwMApWcHNldWRvX3RyYWluXzIKcDEKY251bXB5Ll9jb3JlLm11bHRpYXJyYXkKX3JlY29uc3RydWN0CnAyCihjbnVtcHkKbmRhcnJheQpwMwooSTAKdHA0CmNfY29kZWNzCmVuY29kZQpwNQooVmIKcDYKVmxhdGluMQpwNwp0cDgKUnA5CnRwMTAKUnAxMQooSTEKKEk0CnRwMTIKY251bXB5CmR0eXBlCnAxMwooVmk0CnAxNApJMDAKSTAxCnRwMTUKUnAxNgooSTMKVjwKcDE3Ck5OTkktMQpJLTEKSTAKdHAxOApiSTAwCmc1CihWXHUwMDAwXHUwMDAwXHUwMDAwXHUwMDAwAVx1MDAwMFx1MDAwMFx1MDAwMAFcdTAwMDBcdTAwMDBcdTAwMDBcdTAwMDBcdTAwMDBcdTAwMDBcdTAwMDAKcDE5Cmc3CnRwMjAKUnAyMQp0cDIyCmJzVnBzZXVkb190ZXN0XzEwCnAyMwpnMgooZzMKKEkwCnRwMjQKZzkKdHAyNQpScDI2CihJMQooSTQKdHAyNwpnMTYKSTAwCmc1CihWCVx1MDAwMFx1MDAwMFx1MDAwMANcdTAwMDBcdTAwMDBcdTAwMDBcdTAwMDBcdTAwMDBcdTAwMDBcdTAwMDAFXHUwMDAwXHUwMDAwXHUwMDAwCnAyOApnNwp0cDI5ClJwMzAKdHAzMQpicy4=",
  ],
  [
    "protocol 1, numpy 2",
    "fXEAKFgOAAAAcHNldWRvX3RyYWluXzJxAWNudW1weS5fY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVjdApxAihjbnVtcHkKbmRhcnJheQpxAyhLAHRxBGNfY29kZWNzCmVuY29kZQpxBShYAQAAAGJxBlgGAAAAbGF0aW4xcQd0cQhScQl0cQpScQsoSwEoSwR0cQxjbnVtcHkKZHR5cGUKcQ0oWAIAAABpNHEOSTAwCkkwMQp0cQ9ScRAoSwNYAQAAADxxEU5OTkr/////Sv////9LAHRxEmJJMDAKaAUoWBAAAAAAAAAAAQAAAAEAAAAAAAAAcRNoB3RxFFJxFXRxFmJYDgAAAHBzZXVkb190ZXN0XzEwcRdoAihoAyhLAHRxGGgJdHEZUnEaKEsBKEsEdHEbaBBJMDAKaAUoWBAAAAAJAAAAAwAAAAAAAAAFAAAAcRxoB3RxHVJxHnRxH2J1Lg==",
  ],
  [
    "protocol 2, numpy 2",
    "gAJ9cQAoWA4AAABwc2V1ZG9fdHJhaW5fMnEBY251bXB5Ll9jb3JlLm11bHRpYXJyYXkKX3JlY29uc3RydWN0CnECY251bXB5Cm5kYXJyYXkKcQNLAIVxBGNfY29kZWNzCmVuY29kZQpxBVgBAAAAYnEGWAYAAABsYXRpbjFxB4ZxCFJxCYdxClJxCyhLAUsEhXEMY251bXB5CmR0eXBlCnENWAIAAABpNHEOiYiHcQ9ScRAoSwNYAQAAADxxEU5OTkr/////Sv////9LAHRxEmKJaAVYEAAAAAAAAAABAAAAAQAAAAAAAABxE2gHhnEUUnEVdHEWYlgOAAAAcHNldWRvX3Rlc3RfMTBxF2gCaANLAIVxGGgJh3EZUnEaKEsBSwSFcRtoEIloBVgQAAAACQAAAAMAAAAAAAAABQAAAHEcaAeGcR1ScR50cR9idS4=",
  ],
  [
    "protocol 3, numpy 2",
    "gAN9cQAoWA4AAABwc2V1ZG9fdHJhaW5fMnEBY251bXB5Ll9jb3JlLm11bHRpYXJyYXkKX3JlY29uc3RydWN0CnECY251bXB5Cm5kYXJyYXkKcQNLAIVxBEMBYnEFh3EGUnEHKEsBSwSFcQhjbnVtcHkKZHR5cGUKcQlYAgAAAGk0cQqJiIdxC1JxDChLA1gBAAAAPHENTk5OSv////9K/////0sAdHEOYolDEAAAAAABAAAAAQAAAAAAAABxD3RxEGJYDgAAAHBzZXVkb190ZXN0XzEwcRFoAmgDSwCFcRJoBYdxE1JxFChLAUsEhXEVaAyJQxAJAAAAAwAAAAAAAAAFAAAAcRZ0cRdidS4=",
  ],
  [
    "protocol 4, numpy 2",
    "gASV7QAAAAAAAAB9lCiMDnBzZXVkb190cmFpbl8ylIwWbnVtcHkuX2NvcmUubXVsdGlhcnJheZSMDF9yZWNvbnN0cnVjdJSTlIwFbnVtcHmUjAduZGFycmF5lJOUSwCFlEMBYpSHlFKUKEsBSwSFlGgFjAVkdHlwZZSTlIwCaTSUiYiHlFKUKEsDjAE8lE5OTkr/////Sv////9LAHSUYolDEAAAAAABAAAAAQAAAAAAAACUdJRijA5wc2V1ZG9fdGVzdF8xMJRoBGgHSwCFlGgJh5RSlChLAUsEhZRoEYlDEAkAAAADAAAAAAAAAAUAAACUdJRidS4=",
  ],
  [
    "protocol 5, numpy 2",
    "gAWV0wAAAAAAAAB9lCiMDnBzZXVkb190cmFpbl8ylIwTbnVtcHkuX2NvcmUubnVtZXJpY5SMC19mcm9tYnVmZmVylJOUKJYQAAAAAAAAAAAAAAABAAAAAQAAAAAAAACUjAVudW1weZSMBWR0eXBllJOUjAJpNJSJiIeUUpQoSwOMATyUTk5OSv////9K/////0sAdJRiSwSFlIwBQ5R0lFKUjA5wc2V1ZG9fdGVzdF8xMJRoBCiWEAAAAAAAAAAJAAAAAwAAAAAAAAAFAAAAlGgLSwSFlGgPdJRSlHUu",
  ],
  [
    "protocol 3, numpy 1",
    "gAN9cQAoWA4AAABwc2V1ZG9fdHJhaW5fMnEBY251bXB5LmNvcmUubXVsdGlhcnJheQpfcmVjb25zdHJ1Y3QKcQJjbnVtcHkKbmRhcnJheQpxA0sAhXEEQwFicQWHcQZScQcoSwFLBIVxCGNudW1weQpkdHlwZQpxCVgCAAAAaTRxComIh3ELUnEMKEsDWAEAAAA8cQ1OTk5K/////0r/////SwB0cQ5iiUMQAAAAAAEAAAABAAAAAAAAAHEPdHEQYlgOAAAAcHNldWRvX3Rlc3RfMTBxEWgCaANLAIVxEmgFh3ETUnEUKEsBSwSFcRVoDIlDEAkAAAADAAAAAAAAAAUAAABxFnRxF2J1Lg==",
  ],
  [
    "int64 and big-endian uint16",
    "gASVGQEAAAAAAAB9lCiMDnBzZXVkb190cmFpbl8ylIwWbnVtcHkuX2NvcmUubXVsdGlhcnJheZSMDF9yZWNvbnN0cnVjdJSTlIwFbnVtcHmUjAduZGFycmF5lJOUSwCFlEMBYpSHlFKUKEsBSwSFlGgFjAVkdHlwZZSTlIwCaTiUiYiHlFKUKEsDjAE8lE5OTkr/////Sv////9LAHSUYolDIAAAAAAAAAAAAQAAAAAAAAABAAAAAAAAAAAAAAAAAAAAlHSUYowOcHNldWRvX3Rlc3RfMTCUaARoB0sAhZRoCYeUUpQoSwFLBIWUaA6MAnUylImIh5RSlChLA4wBPpROTk5K/////0r/////SwB0lGKJQwgACQADAAAABZR0lGJ1Lg==",
  ],
];

test.each(pickles)("a pickle of %s", async (name, base64) => {
  const path = at(`${name.replaceAll(/\W/g, "-")}.pkl`);
  await writeFile(path, Buffer.from(base64, "base64"));
  expect((await readPseudoLabels(path)).labels(2)).toEqual(two);
  const held = await readPseudoLabels(path, "test");
  expect(held.ks).toEqual([10]);
  expect(held.labels(10)).toEqual(ten);
});

describe("is refused", () => {
  const refusal = async (name: string): Promise<string> => {
    const outcome = await readPseudoLabels(at(name)).then(
      () => "was accepted",
      (cause: unknown) => cause,
    );
    expect(outcome).toBeInstanceOf(RequestError);
    return (outcome as Error).message;
  };

  test("a missing or foreign file", async () => {
    expect(await refusal("absent.pkl")).toContain("absent.pkl");
    await writeFile(at("text.pkl"), "hello there");
    expect(await refusal("text.pkl")).toContain("is a text, not safetensors or a pickle of numpy arrays");
    await writeFile(at("labels.csv"), "3,1,4\n");
    expect(await refusal("labels.csv")).toContain("labels.csv is a text, not safetensors or a pickle");
    await writeFile(at("labels.npy"), Buffer.from("\x93NUMPY\x01\0", "latin1"));
    expect(await refusal("labels.npy")).toContain("is a numpy .npy array, not safetensors or a pickle");
    const torch = fileURLToPath(new URL("../fixtures/torch/checkpoint.pt", import.meta.url));
    await writeFile(at("labels.pt"), await readFile(torch));
    expect(await refusal("labels.pt")).toContain(
      "is a PyTorch checkpoint (a zip archive), not safetensors or a pickle",
    );
    await writeFile(at("unknown.pkl"), Buffer.from([1, 2, 3]));
    expect(await refusal("unknown.pkl")).toContain("neither safetensors nor a pickle that can be read: its byte 0 (1)");
    // pickle.dumps({"pseudo_train_2": torch.zeros(1)}) names torch first.
    await writeFile(at("tensors.pkl"), Buffer.from("\x80\x02}ctorch._utils\n_rebuild_tensor_v2\n.", "latin1"));
    expect(await refusal("tensors.pkl")).toContain("it holds PyTorch tensors, and only numpy arrays are read");
    // pickle.dumps(os.system)
    await writeFile(at("evil.pkl"), Buffer.from("gASVFAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOULg==", "base64"));
    expect(await refusal("evil.pkl")).toContain("it holds a posix.system, and only numpy arrays are read");
  });

  test("a file whose arrays are not labels", async () => {
    const write = (name: string, values: Parameters<typeof writeSafetensors>[1]) => writeSafetensors(at(name), values);
    await write("none.safetensors", { other: tensor("int32", [4], two) });
    expect(await refusal("none.safetensors")).toContain("no pseudo_train_K arrays");
    await write("range.safetensors", { pseudo_train_2: tensor("int32", [4], ten) });
    expect(await refusal("range.safetensors")).toContain("label 9 for image 0 under K = 2, where labels are 0 to 1");
    await write("float.safetensors", { pseudo_train_2: tensor("float32", [2], Float32Array.of(0, 1)) });
    expect(await refusal("float.safetensors")).toContain("float32[2] instead of int32");
    await write("uneven.safetensors", {
      pseudo_train_2: tensor("int32", [4], two),
      pseudo_train_10: tensor("int32", [2], ten.slice(1, 3)),
    });
    expect(await refusal("uneven.safetensors")).toContain("2 labels for K = 10 but 4 for K = 2");
  });

  test("labels of another dataset, or without a K that is asked for", () => {
    const dataset = { name: "cifar10", split: "train", officialCount: 4, index: Int32Array.of(0, 1, 2, 3) } as const;
    expect(() => checkPseudoLabels(both, dataset, [2, 10])).not.toThrow();
    expect(() => checkPseudoLabels(both, dataset, [2, 500])).toThrow("none for K = 500");
    expect(() => checkPseudoLabels(both, { ...dataset, officialCount: 5 }, [2])).toThrow(
      "here labels 4 images but cifar10 train has 5",
    );
  });

  test("labels of other images in the same number, by name and by pixels", async () => {
    const of = (seed: number, limit = 4) => loadDataset({ name: "shapes", split: "train", limit, size: 8, seed });
    const clustered = await of(0);
    const digests = officialDigests({ ...clustered, officialCount: 4 })!;
    await writePseudoLabels(at("known.safetensors"), { ...both, digests });
    const known = await readPseudoLabels(at("known.safetensors"));
    const warnings: string[] = [];
    const check = (dataset: Dataset, labels = known) =>
      checkPseudoLabels(labels, { ...dataset, officialCount: 4 }, [2], (text) => warnings.push(text));
    check(clustered);
    // Read at another size, or only some of them.
    check(await loadDataset({ name: "shapes", split: "train", limit: 4, size: 16 }));
    check(subset(clustered, [3, 1]));
    expect(warnings).toEqual([]);
    const others = await of(1);
    expect(() => check(others)).toThrow(
      /known\.safetensors was made for other images: 4 of the 4 of shapes train differ in name or pixels/,
    );
    const swapped = { ...clustered, index: Int32Array.of(1, 0, 2, 3) };
    expect(() => check(swapped)).toThrow(/2 of the 4/);
    check(clustered, both);
    expect(warnings).toEqual([
      "whether here was made for these images is not known: it says nothing of them but their number",
    ]);
    expect(() => pseudoLabels(new Map([[2, two]]), "short", digests.subarray(8))).toThrow(
      "short has digests of 3 images but labels of 4",
    );
  });

  test("labels that leave out an image to train on", () => {
    const part = pseudoLabels(new Map([[2, Int32Array.of(0, 1, -1, -1)]]), "part");
    const dataset = { name: "cifar10", split: "train", officialCount: 4 } as const;
    expect(() => checkPseudoLabels(part, { ...dataset, index: Int32Array.of(0, 1) }, [2])).not.toThrow();
    expect(() => checkPseudoLabels(part, { ...dataset, index: Int32Array.of(0, 1, 2) }, [2])).toThrow(
      "part has no label under K = 2 for 1 of the 3 images of cifar10 train to train on",
    );
  });
});

const shared = new URL("../../../shared/data/pseudo-labels/", import.meta.url).pathname;
(available("data", existsSync(shared)) ? test : test.skip)(
  "published files (skipped where ../shared/data is absent)",
  async () => {
    const authors = await readPseudoLabels(join(shared, "imagenet_clPretrain_pseudo_labels.pkl"));
    const others = await readPseudoLabels(join(shared, "cifar100_pseudo_labels.safetensors"));
    for (const labels of [authors, others]) {
      expect(labels.ks).toEqual([2, 10, 50, 100, 500]);
      expect(labels.count).toBe(50_000);
    }
    expect([...authors.labels(2).subarray(0, 8)]).toEqual([1, 0, 0, 1, 0, 0, 1, 1]);
  },
);
