/**
 * Trains over two hosts that are one machine: two network namespaces joined by a virtual pair of network cards, so that ranks
 * reach each other by TCP alone. One rank is killed, and the run is ended by another number of ranks.
 *
 *   sudo node dist/scripts/clusters/two-hosts.js
 *
 * Needs Linux, root, iproute2, util-linux and Open MPI's mpirun.
 */
import { type SpawnSyncReturns, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const main = fileURLToPath(new URL("../../src/cli/main.js", import.meta.url));
const tag = `advcl${process.pid}`;
const hosts = [1, 2].map((n) => ({ space: `${tag}-${n}`, card: `v${process.pid}-${n}`, address: `10.213.77.${n}` }));
const [here, there] = hosts as [(typeof hosts)[0], (typeof hosts)[0]];
const env = { ...process.env, OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" };

const must = (program: string, ...args: string[]): SpawnSyncReturns<string> => {
  const done = spawnSync(program, args, { encoding: "utf8" });
  if (done.status !== 0) throw new Error(`${program} ${args.join(" ")}: ${done.stderr || done.error?.message}`);
  return done;
};

const connect = (): void => {
  for (const { space } of hosts) must("ip", "netns", "add", space);
  must("ip", "link", "add", here.card, "type", "veth", "peer", "name", there.card);
  for (const { space, card, address } of hosts) {
    must("ip", "link", "set", card, "netns", space);
    for (const link of ["lo", card]) must("ip", "-n", space, "link", "set", link, "up");
    must("ip", "-n", space, "address", "add", `${address}/24`, "dev", card);
  }
};

const disconnect = (): void => {
  for (const { space } of hosts) spawnSync("ip", ["netns", "delete", space]);
};

/** Enters a host by its namespace, under a name of its own, as ssh would by the network. */
const entering = (space: string): string[] => ["ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c"];
const writeAgent = (folder: string): string => {
  const agent = join(folder, "agent.sh");
  const enter = entering(there.space).join(" ");
  writeFileSync(agent, `#!/bin/sh\nshift\nexec ${enter} "hostname ${there.space}; $*"\n`, { mode: 0o755 });
  return agent;
};

/** mpirun on the first host, with so many ranks on each. */
const launch = (agent: string, each: number, args: string): [string, string[]] => {
  const places = hosts.map(({ address }) => `${address}:${each}`).join();
  const mca = `--mca plm_rsh_agent ${agent} --mca btl tcp,self --mca btl_tcp_if_include 10.213.77.0/24 --mca oob_tcp_if_include 10.213.77.0/24`;
  const mpirun = `exec mpirun --oversubscribe ${mca} --host ${places} -np ${2 * each} ${process.execPath} ${main} ${args}`;
  const [program = "", ...rest] = entering(here.space);
  return [program, [...rest, `hostname ${here.space}; ${mpirun}`]];
};

const linesOf = (run: string): string[] => {
  const path = join(run, "metrics.jsonl");
  return existsSync(path) ? readFileSync(path, "utf8").split("\n").slice(0, -1) : [];
};

/** The rank of that number on the second host, by what its launcher gave it. */
const rankThere = (rank: number): number | undefined =>
  must("ip", "netns", "pids", there.space)
    .stdout.trim()
    .split("\n")
    .map(Number)
    .find((pid) => {
      const given = (file: string) => readFileSync(`/proc/${pid}/${file}`, "utf8").split("\0");
      return given("environ").includes(`OMPI_COMM_WORLD_RANK=${rank}`) && given("cmdline").includes(main);
    });

/** Starts two ranks, kills the one on the second host once there is a checkpoint, and tells how the first ended. */
const killOne = async (agent: string, args: string, run: string): Promise<number | null> => {
  const [program, rest] = launch(agent, 1, args);
  const child = spawn(program, rest, { stdio: ["ignore", "ignore", "inherit"], env });
  const ended = new Promise<number | null>((resolve) => child.on("exit", resolve));
  while (child.exitCode === null && linesOf(run).length < 4) await sleep(20);
  const pid = rankThere(1);
  if (pid === undefined) throw new Error(`there is no rank on the second host (mpirun ended with ${child.exitCode})`);
  process.kill(pid, "SIGKILL");
  return ended;
};

const folder = mkdtempSync(join(tmpdir(), "advcl-two-hosts-"));
try {
  connect();
  const agent = writeAgent(folder);
  const run = join(folder, "run");
  const args = `pretrain --dataset shapes --size 16 --width 2 --workers 0 --threads 1 --target portable --limit 64 --batch 32 --epochs 4 --attack-steps 1 --lr 0.001 --knn-every 0 --radius 3 --no-clusters --negatives global --rank-check 1 --rank-timeout 60 --out ${run}`;
  const killed = await killOne(agent, args, run);
  const stepsBefore = linesOf(run).length;
  const checkpointsBefore = readdirSync(join(run, "checkpoints")).length;
  const [program, rest] = launch(agent, 2, `${args} --resume`);
  const resumed = spawnSync(program, rest, { encoding: "utf8", env });
  const steps = linesOf(run).map((line) => (JSON.parse(line) as { step: number }).step);
  const whole = steps.length === 8 && steps.every((step, i) => step === i + 1);
  const result = { killed, stepsBefore, checkpointsBefore, resumed: resumed.status, steps: steps.length, whole };
  process.stdout.write(`${JSON.stringify(result)}\n`);
  if (killed === 0 || resumed.status !== 0 || !whole) {
    process.stderr.write(resumed.stderr);
    process.exitCode = 1;
  }
} finally {
  disconnect();
  rmSync(folder, { recursive: true, force: true });
}
