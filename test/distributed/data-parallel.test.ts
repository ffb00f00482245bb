import { expect, test } from "@jest/globals";
import { simclr } from "../../graphs/methods/simclr.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { benchFeeds } from "../../src/bench/measure.ts";
import { alone, type Collective } from "../../src/distributed/collective.ts";
import { launched, mpiLibraries } from "../../src/distributed/launcher.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { createRunner } from "../../src/engine/runner.ts";
import { createParallelRunner } from "../../src/train/data-parallel.ts";

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

const quiet = { stopping: () => false, stop: () => {}, checkEvery: 1 };
const engine = await chooseEngine({ provider: "cpu", threads: 1, target: portable.name });

test("two ranks that hold and see the same do the step of one, to rounding", async () => {
  const one = await createRunner(engine, step, initial);
  const two = await createParallelRunner(engine, step, initial, twins(), quiet);
  for (const runner of [one, two]) {
    await runner.run(inputs);
    runner.accept();
  }
  const [expected, found] = [await one.tensors(), await two.tensors()];
  expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
  // onnxruntime fuses other nodes of a split program, so sums are rounded otherwise.
  for (const [name, { data }] of expected) {
    const [whole, split] = [data as Float32Array, found.get(name)?.data as Float32Array];
    const scale = whole.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const apart = whole.reduce((most, value, i) => Math.max(most, Math.abs(value - split[i]!)), 0);
    expect([name, apart <= 1e-5 * scale]).toEqual([name, true]);
  }
  for (const runner of [one, two]) await runner.release();
});

test("ranks that hold different weights are found, and a rank's wish to stop is every rank's", async () => {
  const parted = await createParallelRunner(
    engine,
    step,
    initial,
    twins((values) => {
      values[values.length - 2]! += 1;
    }),
    quiet,
  );
  await expect(parted.run(inputs)).rejects.toThrow("the ranks hold different weights after 0 steps");
  await parted.release();
  let stopped = false;
  const asked = twins((values) => {
    values[values.length - 1] = 1;
  });
  const runner = await createParallelRunner(engine, step, initial, asked, { ...quiet, stop: () => (stopped = true) });
  await runner.run(inputs);
  expect(stopped).toBe(true);
  await runner.release();
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
