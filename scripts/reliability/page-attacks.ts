/**
 * The served page under attack: other hosts' names (DNS rebinding), paths out of its folder, other methods, requests
 * that are no HTTP, downloads that are broken off and connections that never ask. Each must be refused, nothing outside
 * the page may be answered, and the server must answer as before in the end, with no file left open.
 *
 *   node dist/scripts/reliability/page-attacks.js [--downloads 300] [--idle 100]
 *
 * The last line is one JSON object { attacks, faults }; exit code 1 where any came through.
 */
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { servePage } from "../../src/serve/server.ts";
import { readFlags } from "../flags.ts";

const { values: flags } = readFlags(import.meta.url, {
  options: { downloads: { type: "string", default: "300" }, idle: { type: "string", default: "100" } },
});

const folder = mkdtempSync(join(tmpdir(), "advcl-page-"));
const secret = "nobody may read this";
writeFileSync(join(folder, "secret.txt"), secret);
const large = join(folder, "large.bin");
writeFileSync(large, new Uint8Array(2 ** 24));
const files = new Map<string, Uint8Array | { readonly path: string }>([
  ["index.html", Buffer.from("<p>here</p>")],
  ["large.bin", { path: large }],
]);
const page = await servePage(files as never, { host: "127.0.0.1", port: 0 });
const port = Number(new URL(page.url).port);

/** What the server says to raw bytes, or the first of it. */
const say = (bytes: string): Promise<string> =>
  new Promise((done) => {
    let heard = "";
    const socket = connect(port, "127.0.0.1", () => socket.end(bytes));
    socket.on("data", (text) => {
      heard += text.toString("latin1").slice(0, 2000);
    });
    socket.on("error", () => done(heard));
    socket.on("close", () => done(heard));
    socket.setTimeout(5000, () => socket.destroy());
  });
const get = (path: string, host = "localhost", method = "GET"): Promise<string> =>
  say(`${method} ${path} HTTP/1.1\r\nhost: ${host}\r\nconnection: close\r\n\r\n`);

const faults: string[] = [];
let attacks = 0;
const refused = async (name: string, answer: Promise<string>): Promise<void> => {
  attacks++;
  const heard = await answer;
  if (/^HTTP\/1\.1 2/.test(heard) || heard.includes(secret)) faults.push(`${name}: ${heard.split("\r\n")[0]}`);
};
const openFiles = (): number =>
  process.platform === "linux"
    ? readdirSync("/proc/self/fd").filter((fd) => {
        try {
          return readlinkSync(join("/proc/self/fd", fd)) === large;
        } catch {
          return false; // closed meanwhile
        }
      }).length
    : 0;

try {
  for (const host of ["attacker.example", "localhost.attacker.example", "127.0.0.1.nip.io", "0x7f.1", "2130706433", ""])
    await refused(`host ${host}`, get("/", host));
  const up = ["..", "%2e%2e", "..%2f", "%2e%2e%2f", "..\\", "..%5c", "....//", "%252e%252e/"];
  for (const step of up)
    for (const path of [`/${step}/secret.txt`, `/${step}/${step}/${step}/etc/passwd`, `/large.bin/${step}/secret.txt`])
      await refused(`path ${path}`, get(path));
  for (const path of [
    join(folder, "secret.txt"),
    "//etc/passwd",
    "/constructor",
    "/__proto__",
    "/%00",
    "/%zz",
    "/secret.txt",
  ])
    await refused(`path ${path}`, get(path));
  for (const method of ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
    await refused(`method ${method}`, get("/", "localhost", method));
  for (const bytes of ["\0\0\0\0", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"])
    await refused(`bytes ${JSON.stringify(bytes)}`, say(bytes));
  await refused("a header of 1 MB", say(`GET / HTTP/1.1\r\nhost: localhost\r\nx: ${"x".repeat(2 ** 20)}\r\n\r\n`));

  const idle: Socket[] = [];
  for (let i = 0; i < Number(flags.idle); i++) idle.push(connect(port, "127.0.0.1").on("error", () => {}));
  for (let i = 0; i < Number(flags.downloads); i++)
    await new Promise<void>((done) => {
      attacks++;
      const socket = connect(port, "127.0.0.1", () =>
        socket.write("GET /large.bin HTTP/1.1\r\nhost: localhost\r\n\r\n"),
      );
      socket.on("error", () => {});
      socket.once("data", () => socket.destroy());
      socket.on("close", () => done());
    });
  const until = performance.now() + 5000;
  while (openFiles() > 0 && performance.now() < until) await sleep(20);
  if (openFiles() > 0) faults.push(`${openFiles()} files are open after downloads that were broken off`);
  if (!(await get("/")).includes("<p>here</p>")) faults.push("the page is no longer answered");
  for (const socket of idle) socket.destroy();
} finally {
  await page.close();
  rmSync(folder, { recursive: true });
}
for (const fault of faults) console.error(fault);
console.log(JSON.stringify({ attacks, faults }));
process.exit(faults.length > 0 ? 1 : 0);
