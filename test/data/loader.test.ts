import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { types } from "node:util";
import { beforeAll, describe, expect, test } from "@jest/globals";
import { type Dataset, loadDataset } from "../../src/data/dataset.ts";
import { type Batch, createLoader, type Loader, type LoaderOptions } from "../../src/data/loader.ts";
import { pseudoLabels } from "../../src/data/pseudo-labels.ts";
import { advclView, dynaclView, plainView, uniformStart, weakView } from "../../src/data/view.ts";
import { RequestError, RunError } from "../../src/errors.ts";
import { available } from "../needs.ts";

let dataset: Dataset;
let clusters: ReturnType<typeof pseudoLabels>;

beforeAll(async () => {
  dataset = await loadDataset({ name: "shapes", split: "train", limit: 90, size: 8 });
  clusters = pseudoLabels(new Map([[50, Int32Array.from({ length: 2000 }, (_, i) => i % 50)]]), "here");
});

const inputs = {
  clean: weakView,
  view1: advclView,
  view2: advclView,
  start: uniformStart(8 / 255),
  label: { kind: "label" },
  label_050: { kind: "pseudo-label", k: 50 },
  index: { kind: "index" },
} as const;

const make = (options: Partial<LoaderOptions> = {}): Loader =>
  createLoader({ dataset, batch: 20, seed: 5, workers: 0, inputs, pseudoLabels: clusters, dropLast: true, ...options });

/** Everything a batch holds, tensors by the hash of their bytes: quick to compare. */
const printed = ({ tensors, ...batch }: Batch): unknown => ({
  ...batch,
  tensors: Object.entries(tensors).map(([name, { dtype, shape, data }]) => {
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    return [name, dtype, shape, createHash("sha1").update(bytes).digest("hex")];
  }),
});

const read = async (loader: Loader, epoch: number, startStep = 0): Promise<Batch[]> => {
  const batches: Batch[] = [];
  for await (const batch of loader.epoch(epoch, { startStep })) batches.push(batch);
  return batches;
};

describe("batches", () => {
  test("have the names, types and shapes asked for", async () => {
    const loader = make();
    expect(loader.stepsPerEpoch).toBe(4);
    const [first, ...rest] = await read(loader, 1);
    expect(rest.map((batch) => batch.step)).toEqual([1, 2, 3]);
    expect(Object.keys(first!.tensors)).toEqual(Object.keys(inputs));
    for (const name of ["clean", "view1", "view2", "start"])
      expect(first!.tensors[name]).toMatchObject({ dtype: "float32", shape: [20, 3, 8, 8] });
    for (const name of ["label", "label_050", "index"])
      expect(first!.tensors[name]).toMatchObject({ dtype: "int32", shape: [20] });
    const indices = [...first!.indices];
    expect(Array.from(first!.tensors.index!.data, Number)).toEqual(indices);
    expect(Array.from(first!.tensors.label!.data, Number)).toEqual(indices.map((i) => i % 10));
    expect(Array.from(first!.tensors.label_050!.data, Number)).toEqual(indices.map((i) => i % 50));
    expect(loader.waitSeconds).toBeGreaterThan(0);
  });

  test("two views of an image differ, and so do two epochs", async () => {
    const loader = make();
    const [first] = await read(loader, 1);
    expect(first!.tensors.view1).not.toEqual(first!.tensors.view2);
    const [second] = await read(loader, 2);
    expect(second!.indices).not.toEqual(first!.indices);
  });

  test("an epoch resumed in its middle goes on with the same bits", async () => {
    const all = await read(make(), 3);
    expect((await read(make(), 3, 2)).map(printed)).toEqual(all.slice(2).map(printed));
    expect(await read(make(), 3, 4)).toEqual([]);
  });

  test("an image's view depends on its index, not on its batch", async () => {
    const view = async (batch: number): Promise<Map<number, unknown>> => {
      const found = new Map<number, unknown>();
      for (const { indices, tensors } of await read(make({ batch }), 1))
        for (const [row, index] of indices.entries())
          found.set(index, tensors.view1!.data.slice(row * 192, (row + 1) * 192));
      return found;
    };
    const [small, large] = [await view(6), await view(45)];
    expect(large.size).toBe(90);
    for (const [index, pixels] of small) expect(pixels).toEqual(large.get(index));
  });

  test("without shuffling and with the rest, evaluation sees every image once, in order", async () => {
    const loader = make({ shuffle: false, dropLast: false, inputs: { image: plainView } });
    expect(loader.stepsPerEpoch).toBe(5);
    const batches = await read(loader, 0);
    expect(batches.at(-1)!.tensors.image!.shape).toEqual([10, 3, 8, 8]);
    expect(batches.flatMap((batch) => [...batch.indices])).toEqual([...dataset.index]);
    expect(batches[0]!.tensors.image!.data[5]).toBe(Math.fround(dataset.images[5]! / 255));
  });

  test("random labels stay below their bound, the same again for an image and an epoch", async () => {
    const labels = async (seed: number, epoch: number) => {
      const loader = make({ seed, shuffle: false, inputs: { order: { kind: "random", below: 24 } } });
      return (await read(loader, epoch)).flatMap(({ tensors }) => Array.from(tensors.order!.data, Number));
    };
    const first = await labels(5, 1);
    expect(first.every((label) => Number.isInteger(label) && label >= 0 && label < 24)).toBe(true);
    expect(new Set(first).size).toBeGreaterThan(12);
    expect(await labels(5, 1)).toEqual(first);
    expect(await labels(5, 2)).not.toEqual(first);
    expect(await labels(6, 1)).not.toEqual(first);
  });

  test("recipes may change from epoch to epoch", async () => {
    const loader = make({ inputs: (epoch) => ({ view1: dynaclView(1 - (epoch - 1) / 2) }) });
    const strong = make({ inputs: { view1: dynaclView(1) } });
    const both = async (epoch: number) =>
      [await read(loader, epoch), await read(strong, epoch)].map((b) => b.map(printed));
    const [same, other] = [await both(1), await both(2)];
    expect(same[0]).toEqual(same[1]);
    expect(other[0]).not.toEqual(other[1]);
  });
});

describe("what does not fit is refused", () => {
  const refused = (options: Partial<LoaderOptions>): unknown => {
    try {
      make(options);
      return undefined;
    } catch (cause) {
      expect(cause).toBeInstanceOf(RequestError);
      return (cause as Error).message;
    }
  };

  test("by name", () => {
    const { labels: _, ...unlabelled } = dataset;
    expect(refused({ batch: 91 })).toContain("batch 91 is larger than the 90 images of shapes train");
    expect(refused({ batch: 0 })).toContain("batch must be");
    expect(refused({ workers: -1 })).toContain("workers must be");
    expect(refused({ prefetch: 1 })).toContain("prefetch must be a whole number from 2");
    expect(refused({ dataset: unlabelled })).toContain("input label: shapes train has no labels");
    expect(refused({ pseudoLabels: undefined })).toContain("input label_050 needs pseudo-labels");
    expect(refused({ inputs: { a: { kind: "pseudo-label", k: 7 } } })).toContain("none for K = 7");
    expect(refused({ inputs: { a: { ...advclView, grey: 2 } } })).toContain("view a.grey");
    expect(refused({ pseudoLabels: pseudoLabels(new Map([[50, [1]]]), "short") })).toContain("labels 1 images but");
    expect(() => make().epoch(1, { startStep: 5 })).toThrow(RequestError);
  });
});

const built = available("dist", existsSync(new URL("../../dist/src/data/loader-worker.js", import.meta.url)));

(built ? describe : describe.skip)("worker threads (skipped where dist is not built: npm run build)", () => {
  const using = async (options: Partial<LoaderOptions>, use: (loader: Loader) => Promise<void>): Promise<void> => {
    const loader = make(options);
    try {
      await use(loader);
    } finally {
      await loader.close();
    }
  };

  test.each([1, 2, 3])("%d of them make the same batches as none", async (workers) => {
    const options = { dropLast: false } as const;
    await using({ ...options, workers }, async (loader) => {
      for (const [epoch, startStep] of [
        [1, 0],
        [2, 3],
      ] as const)
        expect((await read(loader, epoch, startStep)).map(printed)).toEqual(
          (await read(make(options), epoch, startStep)).map(printed),
        );
    });
  });

  test("fill their slots while the main thread is blocked", async () => {
    await using({ workers: 1, batch: 4 }, async (loader) => {
      const batches = loader.epoch(1);
      await batches.next();
      for (const until = performance.now() + 300; performance.now() < until; );
      const before = loader.waitSeconds;
      const { value } = await batches.next();
      expect(loader.waitSeconds - before).toBeLessThan(0.1);
      expect(types.isSharedArrayBuffer((value as Batch).tensors.view1!.data.buffer)).toBe(false);
      await batches.return();
    });
  });

  test("go on after an epoch that was broken off, or left without a word", async () => {
    await using({ workers: 2 }, async (loader) => {
      for await (const batch of loader.epoch(1)) if (batch.step === 1) break;
      const left = loader.epoch(2);
      await left.next();
      expect((await read(loader, 3)).map(printed)).toEqual((await read(make(), 3)).map(printed));
      await expect(left.next()).rejects.toThrow("given up");
    });
  });

  test("reject the batch that they failed to make, with the cause", async () => {
    const broken = { ...dataset, index: dataset.index.map(() => -1) };
    await using({ workers: 2, dataset: broken, inputs: { view1: advclView } }, async (loader) => {
      const outcome: unknown = await loader
        .epoch(1)
        .next()
        .catch((cause: unknown) => cause);
      expect(outcome).toBeInstanceOf(RunError);
      expect((outcome as RunError).message).toContain("a data worker failed: random: index must be");
      expect(((outcome as RunError).cause as Error).stack).toContain("painter");
    });
  });

  test("are gone once closed", async () => {
    const loader = make({ workers: 1 });
    const batches = loader.epoch(1);
    await batches.next();
    await loader.close();
    await expect(batches.next()).rejects.toThrow("closed");
    await expect(loader.epoch(2).next()).rejects.toThrow("closed");
  });
});
