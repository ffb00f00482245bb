/** The page's server against strangers. */
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { get, type IncomingMessage, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { servePage } from "../../src/serve/server.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-server-"));
const large = join(folder, "large.bin");
let page: Awaited<ReturnType<typeof servePage>>;
beforeAll(async () => {
  writeFileSync(large, new Uint8Array(2 ** 24));
  const files = new Map<string, Uint8Array | { readonly path: string }>([
    ["index.html", Buffer.from("<p>here</p>")],
    ["large.bin", { path: large }],
  ]);
  page = await servePage(files as never, { host: "127.0.0.1", port: 0 });
});
afterAll(async () => {
  await page.close();
  rmSync(folder, { recursive: true });
});

const ask = (path: string, host: string, method = "GET"): Promise<IncomingMessage> =>
  new Promise((done, fail) => {
    request(new URL(path, page.url), { method, headers: { host } }, (answer) => {
      answer.resume();
      done(answer);
    })
      .on("error", fail)
      .end();
  });

test.each([
  ["localhost:8080", 200],
  ["127.0.0.1", 200],
  ["[::1]:1", 200],
  ["LOCALHOST", 200],
  ["attacker.example", 403],
  ["localhost.attacker.example", 403],
  ["127.0.0.1.attacker.example:8080", 403],
  ["10.0.0.1", 403],
])("a request for %s is answered with %d", async (host, status) => {
  expect((await ask("/", host)).statusCode).toBe(status);
});

test("every answer has the headers that keep the page to itself", async () => {
  const answers = [await ask("/", "localhost"), await ask("/nothing", "localhost"), await ask("/", "a.example")];
  answers.push(await ask("/", "localhost", "POST"));
  expect(answers.map(({ statusCode }) => statusCode)).toEqual([200, 404, 403, 405]);
  for (const { headers } of answers) {
    expect(headers).toMatchObject({
      "x-content-type-options": "nosniff",
      "cross-origin-opener-policy": "same-origin",
      "cross-origin-embedder-policy": "require-corp",
    });
    for (const part of ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
      expect(headers["content-security-policy"]).toContain(part);
  }
});

const opened = (): number =>
  readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return readlinkSync(join("/proc/self/fd", fd)) === large;
    } catch {
      return false; // closed meanwhile
    }
  }).length;

(process.platform === "linux" ? test : test.skip)("downloads that are broken off close their files", async () => {
  const breakOff = () =>
    new Promise<void>((done) => {
      const asked = get(new URL("/large.bin", page.url), (answer) => {
        answer.once("data", () => {
          asked.destroy();
          done();
        });
      });
      asked.on("error", () => {});
    });
  for (let i = 0; i < 20; i++) await breakOff();
  const until = performance.now() + 5000;
  while (opened() > 0 && performance.now() < until) await new Promise((done) => setTimeout(done, 20));
  expect(opened()).toBe(0);
  expect((await ask("/", "localhost")).statusCode).toBe(200);
});
