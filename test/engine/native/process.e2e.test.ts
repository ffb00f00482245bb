/** Processes of the native engine: memory stays flat, and one that ends in the middle of a run ends as it was told. */
import { spawn, spawnSync } from "node:child_process";
import { describe, expect, test } from "@jest/globals";
import { built } from "../../built.ts";

/** A process that starts a product of several seconds and says so, then does what it is told. */
const program = (then: string) => `
  import { createSession } from ${JSON.stringify(`file://${built("src/engine/session.js")}`)};
  import { input } from ${JSON.stringify(`file://${built("graphs/onnx/graph.js")}`)};
  import { buildModel } from ${JSON.stringify(`file://${built("graphs/onnx/write.js")}`)};
  import { matMul } from ${JSON.stringify(`file://${built("graphs/ops/index.js")}`)};
  const a = input("a", { dtype: "float32", shape: [2000, 2000] });
  let y = a;
  for (let i = 0; i < 12; i++) y = matMul(y, a);
  const session = await createSession(buildModel({ y }), { engine: "native", threads: 2 });
  const run = session.run({ a: { dtype: "float32", shape: [2000, 2000], data: new Float32Array(4e6) } });
  run.then(() => console.log("whole"));
  setTimeout(() => { console.log("started"); ${then}; }, 50);
`;

const ended = (
  then: string,
  onStart?: (pid: number) => void,
): Promise<{ code: number | null; signal: string | null; said: string }> =>
  new Promise((done) => {
    const child = spawn("node", ["--input-type=module", "-e", program(then)], { stdio: ["ignore", "pipe", "ignore"] });
    let said = "";
    child.stdout.on("data", (text) => {
      said += text;
      if (/started/.test(said)) onStart?.(child.pid as number);
    });
    child.on("exit", (code, signal) => done({ code, signal, said: said.trim() }));
  });

describe("a process that ends while a model runs", () => {
  test.each([
    ["process.exit(3)", 3, null],
    ["throw new Error('something else failed')", 1, null],
    ["process.kill(process.pid, 'SIGTERM')", null, "SIGTERM"],
  ] as const)("%s", async (then, code, signal) => {
    expect(await ended(then)).toEqual({ code, signal, said: "started" });
  });

  test("killed from outside", async () => {
    expect(await ended("", (pid) => process.kill(pid, "SIGKILL"))).toEqual({
      code: null,
      signal: "SIGKILL",
      said: "started",
    });
  });

  test("left alone it ends when the run has", async () => {
    expect(await ended("session.release()")).toEqual({ code: 0, signal: null, said: "started\nwhole" });
  });
});

test("runs, runs that fail and sessions leave memory as it was", () => {
  const script = built("scripts/benchmarks/native-memory.js");
  const { status, stdout } = spawnSync("node", ["--expose-gc", script, "--runs", "40"], { encoding: "utf8" });
  const { growth } = JSON.parse(stdout.trim().split("\n").at(-1) as string);
  expect(Object.keys(growth)).toEqual(["bound steps", "runs", "runs that fail", "sessions"]);
  expect(status).toBe(0);
});
