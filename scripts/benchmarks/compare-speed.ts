/**
 * The AdvCL step against PyTorch at the same mathematics: one worker process each, one step of each in turn, medians.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/compare-speed.js --python PYTHON --reference advcl_torch.py [--batch 32] [--width 64] [--size 32]
 *       [--rounds 5] [--threads 2] [--modes authors,hoisted,bf16] [--target cpu]
 *
 * `authors`: clean views anew in each attack step, NCHW; `hoisted`: clean views once, channels last; `bf16`: that under
 * autocast. Wall seconds and the processor's seconds, which other programs on the machine disturb less; peaks in GB.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { advcl } from "../../graphs/methods/advcl.ts";
import { benchFeeds, median, peakMemory } from "../../src/bench/measure.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { RunError } from "../../src/errors.ts";
import { stemOf } from "../../src/runs/network.ts";
import { existingPath, readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    worker: { type: "boolean", default: false },
    python: { type: "string", default: "python3" },
    reference: { type: "string" },
    batch: { type: "string", default: "32" },
    width: { type: "string", default: "64" },
    size: { type: "string", default: "32" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
    modes: { type: "string", default: "authors,hoisted" },
    target: { type: "string", default: "cpu" },
  },
});
const [batch, width, size, rounds, threads] = [
  values.batch,
  values.width,
  values.size,
  values.rounds,
  values.threads,
].map(Number) as [number, number, number, number, number];

interface Run {
  readonly wall: number;
  readonly cpu: number;
  readonly peak: number;
}

/** Answers each line on stdin with one step and its figures; the first answer says that it is ready. */
const serve = async (): Promise<void> => {
  const engine = await chooseEngine({ provider: "cpu", threads, target: values.target });
  const step = advcl.build({
    ...advcl.paper,
    batch,
    size,
    depth: 18,
    width,
    stem: stemOf("cifar", size),
    clusters: [2, 10, 50, 100, 500],
    attackSteps: 5,
  });
  const { session, model } = await engine.load(step);
  const feeds = benchFeeds(step, 1);
  console.log(JSON.stringify({ nodes: model.nodes.size }));
  for await (const _ of createInterface({ input: process.stdin })) {
    const [start, used] = [performance.now(), process.cpuUsage()];
    const results = await session.run(feeds);
    const { user, system } = process.cpuUsage(used);
    const run: Run = {
      wall: (performance.now() - start) / 1e3,
      cpu: (user + system) / 1e6,
      peak: (await peakMemory()) / 1e9,
    };
    for (const [name, value] of Object.entries(results)) if (name.startsWith("next.")) feeds[name.slice(5)] = value;
    console.log(JSON.stringify(run));
  }
};

const torchWorker = `
import contextlib, importlib.util, json, resource, sys, time, torch
spec = importlib.util.spec_from_file_location("advcl_torch", sys.argv[1])
ref = importlib.util.module_from_spec(spec); spec.loader.exec_module(ref)
mode, batch, width, size, threads = sys.argv[2], *map(int, sys.argv[3:7])
torch.set_num_threads(threads); torch.manual_seed(0)
net, data = ref.AdvCLNet(width).train(), ref.random_batch(batch, size)
if mode != "authors":
    last = dict(memory_format=torch.channels_last)
    net = net.to(**last)
    data = {k: v if k == "labels" else v.contiguous(**last) for k, v in data.items()}
opt = ref.sgd(net, 0.01)
amp = torch.autocast("cpu", dtype=torch.bfloat16) if mode == "bf16" else contextlib.nullcontext()
print(json.dumps({"torch": torch.__version__}), flush=True)
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    opt.zero_grad(set_to_none=True)
    with amp:
        loss = ref.step(net, data, mode != "authors")[0]
    loss.backward(); opt.step(); loss.item()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": peak}), flush=True)
`;

interface Worker {
  readonly name: string;
  readonly child: ChildProcess;
  next(): Promise<string>;
}

const worker = (name: string, command: string, args: readonly string[]): Worker => {
  const child = spawn(command, [...args], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    name,
    child,
    next: async () => {
      const { value, done } = await lines.next();
      if (done) throw new RunError(`the worker ${name} ended (exit code ${child.exitCode})`);
      return value;
    },
  };
};

const compare = async (): Promise<void> => {
  const reference = existingPath("reference", values.reference);
  const shape = [`${batch}`, `${width}`, `${size}`, `${threads}`];
  const workers = [
    worker("ours", process.execPath, [fileURLToPath(import.meta.url), ...process.argv.slice(2), "--worker"]),
    ...values.modes
      .split(",")
      .map((mode) => worker(`torch ${mode}`, values.python, ["-c", torchWorker, reference, mode, ...shape])),
  ];
  const runs = new Map<string, Run[]>(workers.map(({ name }) => [name, []]));
  for (const { name, next } of workers) console.log(`${name}: ready ${await next()}`);
  // The first round warms up and does not count.
  for (let round = 0; round <= rounds; round++)
    for (const { name, child, next } of workers) {
      child.stdin?.write("go\n");
      const run = JSON.parse(await next()) as Run;
      if (round > 0) runs.get(name)?.push(run);
    }
  for (const { child } of workers) child.stdin?.end();
  const figures = (name: string, key: keyof Run) => (runs.get(name) as Run[]).map((run) => run[key]);
  console.log(
    `\nResNet-18 width ${width}, batch ${batch}, ${size}×${size}, ${threads} threads, ${rounds} rounds in turn`,
  );
  for (const { name } of workers) {
    const ratio = (key: "wall" | "cpu") => (median(figures(name, key)) / median(figures("ours", key))).toFixed(2);
    const [wall, cpu] = [figures(name, "wall"), figures(name, "cpu")];
    console.log(
      `${name.padEnd(14)} ${median(wall).toFixed(2)} s (min ${Math.min(...wall).toFixed(2)}), cpu ${median(cpu).toFixed(2)} s, ` +
        `peak ${Math.max(...figures(name, "peak")).toFixed(2)} GB; over ours ${ratio("wall")}, cpu ${ratio("cpu")}`,
    );
  }
};

await (values.worker ? serve() : compare());
