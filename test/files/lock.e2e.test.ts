/** Two containers of one machine at one run folder: PID namespaces of their own, the same host name, boot and disk. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, expect, test } from "@jest/globals";
import { built } from "../built.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-containers-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A process in a namespace of its own, which says "held" or why not, and then waits. */
const container = (): readonly [string, string[]] => {
  const program = `
    import { lockFolder } from ${JSON.stringify(pathToFileURL(built("src/files/lock.js")).href)};
    await lockFolder(${JSON.stringify(folder)}).then(() => console.log("held"), ({ message }) => console.log(message));
    setInterval(() => {}, 1000);`;
  const node = [process.execPath, "--input-type=module", "-e", program];
  return ["unshare", ["-rpf", "--mount-proc", "--kill-child", ...node]];
};

const possible = process.platform === "linux" && spawnSync("unshare", ["-rpf", "--mount-proc", "true"]).status === 0;

(possible ? test : test.skip)(
  "a container's lock holds against another as long as it runs, and no longer",
  async () => {
    const run = () => {
      const [program, args] = container();
      const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
      return { child, said: once(child.stdout, "data").then(([text]) => String(text).trim()) };
    };
    const first = run();
    expect(await first.said).toBe("held");
    const second = run();
    expect(await second.said).toMatch(/is being written by process 1 of another container \(.+\); wait until it ends/);
    for (const { child } of [first, second]) {
      child.kill("SIGKILL");
      await once(child, "close");
    }
    expect(readdirSync(folder)).toHaveLength(1);
    const third = run();
    expect(await third.said).toBe("held");
    third.child.kill("SIGKILL");
    await once(third.child, "close");
    expect(readdirSync(folder)).toHaveLength(1);
  },
);
