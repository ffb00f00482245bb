import { expect, test } from "@jest/globals";
import { crossEntropy } from "../../graphs/losses/cross-entropy.ts";
import { simclr } from "../../graphs/methods/simclr.ts";
import { linear } from "../../graphs/nn/layer.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import { sgd } from "../../graphs/optim/sgd.ts";
import { metrics } from "../../graphs/steps/names.ts";
import { update } from "../../graphs/steps/step.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { benchFeeds } from "../../src/bench/measure.ts";
import { alone, type Collective, type WithinProgram } from "../../src/distributed/collective.ts";
import { launched, mpiLibraries, prepareEnvironment } from "../../src/distributed/launcher.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { missingApi, ortApi } from "../../src/engine/native/api.ts";
import { createRunner } from "../../src/engine/runner.ts";
import { createParallelRunner } from "../../src/train/data-parallel.ts";
import { available } from "../needs.ts";

const step = simclr.build({ ...simclr.paper, batch: 4, size: 16, depth: 18, width: 2, stem: "cifar" } as never);
const feeds = Object.entries(benchFeeds(step, 1));
const initial = new Map(feeds.filter(([name]) => !name.startsWith("input.")));
const inputs = Object.fromEntries(feeds.filter(([name]) => name.startsWith("input.")));

/** Two ranks that hold the same: the sum is the double. `meddle` changes what this one gets. */
const twins = (meddle: (values: Float32Array) => void = () => {}): Collective => ({
  ...alone,
  size: 2,
  sum: async (values) => {
    values.forEach((value, i) => {
      values[i] = 2 * value;
    });
    meddle(values);
  },
});

/** The same from inside of a program. */
const speaking = (meddle: (values: Float32Array) => void = () => {}): WithinProgram => ({
  failure: undefined,
  sum: (from, to, count) => {
    const [values, sums] = [from, to].map((at) => new Float32Array(ortApi().koffi.view(at, 4 * count)));
    values!.forEach((value, i) => {
      sums![i] = 2 * value;
    });
    meddle(sums!);
  },
  gather: () => {
    throw new Error("nothing is gathered here");
  },
});
const native = available("koffi", missingApi() === undefined);
const enginesOf = async (meddle?: (values: Float32Array) => void) => [
  engine,
  ...(native
    ? [
        await chooseEngine({
          provider: "cpu",
          threads: 1,
          target: portable.name,
          engine: "native",
          ranks: speaking(meddle),
        }),
      ]
    : []),
];

const quiet = { stopping: () => false, stop: () => {}, checkEvery: 1 };
const engine = await chooseEngine({ provider: "cpu", threads: 1, target: portable.name });

test("two ranks that hold and see the same do the step of one, to rounding", async () => {
  const one = await createRunner(engine, step, initial);
  const measured = await one.run(inputs);
  one.accept();
  const expected = await one.tensors();
  for (const each of await enginesOf()) {
    const two = await createParallelRunner(each, step, initial, twins(), quiet);
    const figures = await two.run(inputs);
    expect(Object.keys(figures)).toEqual(Object.keys(measured));
    two.accept();
    const found = await two.tensors();
    expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
    // onnxruntime fuses other nodes of a split program, so sums are rounded otherwise.
    for (const [name, { data }] of expected) {
      const [whole, split] = [data as Float32Array, found.get(name)?.data as Float32Array];
      const scale = whole.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const apart = whole.reduce((most, value, i) => Math.max(most, Math.abs(value - split[i]!)), 0);
      expect([each.name, name, apart <= 1e-5 * scale]).toEqual([each.name, name, true]);
    }
    await two.release();
  }
  await one.release();
});

/** A linear classifier: quick to load. */
const small = () => {
  const store = new Store();
  const x = store.input("x", { dtype: "float32", shape: [4, 3] });
  const label = store.input("label", { dtype: "int32", shape: [4] });
  const loss = crossEntropy(linear({ features: 2 })(new Scope(store), x), label);
  const { outputs, gradients } = update(store, loss, sgd({ momentum: 0.9, weightDecay: 0 }));
  const all = Object.entries(benchFeeds({ store, outputs }, 1));
  return {
    step: { store, outputs: { ...outputs, ...metrics({ loss }) }, gradients },
    initial: new Map(all.filter(([name]) => !name.startsWith("input."))),
    inputs: Object.fromEntries(all.filter(([name]) => name.startsWith("input."))),
  };
};

test("ranks that hold different weights are found, and a rank's wish to stop is every rank's", async () => {
  const { step, initial, inputs } = small();
  const part = (values: Float32Array) => {
    values[values.length - 2]! += 1;
  };
  for (const each of await enginesOf(part)) {
    const parted = await createParallelRunner(each, step, initial, twins(part), quiet);
    await expect(parted.run(inputs)).rejects.toThrow("the ranks hold different weights after 0 steps");
    await parted.release();
  }
  const ask = (values: Float32Array) => {
    values[values.length - 1] = 1;
  };
  for (const each of await enginesOf(ask)) {
    let stopped = false;
    const stop = () => {
      stopped = true;
    };
    const runner = await createParallelRunner(each, step, initial, twins(ask), { ...quiet, stop });
    await runner.run(inputs);
    expect(stopped).toBe(true);
    await runner.release();
  }
});

test("the library that is looked for first is the launcher's", () => {
  expect(mpiLibraries({ OMPI_COMM_WORLD_RANK: "0" })[0]).toBe("libmpi.so.40");
  expect(mpiLibraries({ OMPI_COMM_WORLD_RANK: "0", OMPI_LIBDIR_LOC: "/opt/openmpi/lib" }).slice(0, 2)).toEqual([
    "/opt/openmpi/lib/libmpi.so.40",
    "libmpi.so.40",
  ]);
  expect(mpiLibraries({ PMI_RANK: "0" })[0]).toBe("libmpich.so.12");
  expect(new Set(mpiLibraries({ PMI_RANK: "0" }))).toEqual(new Set(mpiLibraries({})));
});

test("UCX leaves the heap and SIGSEGV alone, unless it is told otherwise", () => {
  const environment: Record<string, string | undefined> = { UCX_ERROR_SIGNALS: "" };
  prepareEnvironment(environment);
  expect(environment).toEqual({ UCX_MEM_EVENTS: "n", UCX_ERROR_SIGNALS: "" });
});

test("launchers are known by their environment", () => {
  expect(launched({})).toBe(undefined);
  expect(launched({ SLURM_NTASKS: "8", SLURM_PROCID: "0" })).toBe(undefined); // sbatch's own script
  expect(launched({ OMPI_COMM_WORLD_RANK: "0", OMPI_COMM_WORLD_SIZE: "1" })).toBe(undefined);
  expect(launched({ OMPI_COMM_WORLD_RANK: "3", OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_LOCAL_RANK: "1" })).toEqual({
    rank: 3,
    size: 4,
    localRank: 1,
  });
  expect(launched({ PMI_RANK: "1", PMI_SIZE: "2", SLURM_LOCALID: "0" })).toEqual({ rank: 1, size: 2, localRank: 0 });
  expect(launched({ PMIX_RANK: "2", SLURM_STEP_NUM_TASKS: "4", SLURM_LOCALID: "0" })).toEqual({
    rank: 2,
    size: 4,
    localRank: 0,
  });
});
