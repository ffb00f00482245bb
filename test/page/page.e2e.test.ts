import { existsSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type Browser, chromium, type Page } from "playwright-core";
import { loadDataset } from "../../src/data/dataset.ts";
import { floatGraph } from "../../src/deploy/model.ts";
import { deployedOptions, sourceOf } from "../../src/deploy/source.ts";
import { buildPage } from "../../src/serve/build.ts";
import { servePage } from "../../src/serve/server.ts";
import { built } from "../built.ts";
import { head, randomNetwork } from "../deploy/networks.ts";
import { available } from "../needs.ts";

const executablePath = process.env.ADVCL_CHROMIUM ?? "/usr/bin/chromium";
const inBrowser = available("browser", existsSync(executablePath)) ? describe : describe.skip;

const files = async () => {
  built("page/index.html");
  const { network, weights } = randomNetwork({ width: 4, size: 16 });
  for (const [name, value] of head(10, 32)) weights.set(name, value);
  const source = sourceOf(network, weights, "auto", "test");
  const { image, outputs } = floatGraph(deployedOptions(source, "classifier", "test"), weights, 1);
  const samples = await loadDataset({ name: "shapes", split: "test", size: 16, limit: 20 });
  return buildPage(
    { image, logits: outputs.logits as never },
    { title: "test", classes: samples.classes, eps: 8 / 255, facts: { branch: "pgd" }, samples },
  );
};

describe("the page's files", () => {
  let page: Awaited<ReturnType<typeof servePage>>;
  beforeAll(async () => {
    page = await servePage(await files(), { host: "127.0.0.1", port: 0 });
  });
  afterAll(() => page.close());

  test("are served to this machine with the headers of an isolated page, and nothing else is", async () => {
    const index = await fetch(page.url);
    expect(index.status).toBe(200);
    expect(index.headers.get("cross-origin-opener-policy")).toBe("same-origin");
    expect(index.headers.get("content-security-policy")).toContain("default-src 'self'");
    expect(await index.text()).toContain('<script type="module" src="main.js">');
    expect((await fetch(`${page.url}attack.onnx`)).headers.get("content-type")).toBe("application/octet-stream");
    for (const path of ["../package.json", "%2e%2e/package.json", "none", "%"])
      expect((await fetch(`${page.url}${path}`)).status).toBe(404);
    expect((await fetch(page.url, { method: "POST" })).status).toBe(405);
    await expect(servePage(new Map(), { host: "127.0.0.1", port: Number(new URL(page.url).port) })).rejects.toThrow(
      /is taken; choose another --port/,
    );
  });

  test("name nothing that lies elsewhere", async () => {
    for (const [name, file] of await files())
      if (file instanceof Uint8Array && /\.(html|css|js|json)$/.test(name))
        expect([
          name,
          Buffer.from(file)
            .toString()
            .match(/(https?:)?\/\/(?!www\.w3\.org)[a-z][\w.-]+\.[a-z]{2,}/g),
        ]).toEqual([name, null]);
  });
});

inBrowser("in Chromium", () => {
  let browser: Browser;
  let server: Awaited<ReturnType<typeof servePage>>;
  let page: Page;
  const outside: string[] = [];
  const faults: string[] = [];

  beforeAll(async () => {
    server = await servePage(await files(), { host: "127.0.0.1", port: 0 });
    browser = await chromium.launch({
      executablePath,
      args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
    });
    page = await browser.newPage();
    page.on("request", (request) => {
      if (!request.url().startsWith(server.url) && !/^(blob|data):/.test(request.url())) outside.push(request.url());
    });
    page.on("pageerror", (error) => faults.push(error.message));
    page.on("console", (message) => {
      if (message.type() === "error") faults.push(message.text());
    });
    await page.goto(`${server.url}?engine=wasm`);
    await page.waitForSelector("body[data-ready]", { timeout: 60_000 });
  }, 90_000);
  afterAll(async () => {
    await browser?.close();
    await server?.close();
  });

  /** Numbers in the bar of a class. */
  const bar = async (c: number) => {
    const row = page.locator(`.bar[data-class="${c}"]`);
    return {
      clean: Number(await row.getAttribute("data-clean")),
      attacked: Number(await row.getAttribute("data-attacked")),
    };
  };
  const choose = async (thumb: number) => {
    const before = await page.getAttribute("body", "data-chosen");
    await page.click(`.thumb:nth-child(${thumb})`);
    await page.waitForSelector(`body:not([data-chosen="${before}"])`);
  };

  test("it predicts", async () => {
    expect(await page.textContent("#engine")).toBe("WebAssembly");
    await choose(4);
    const bars = await Promise.all(Array.from({ length: 10 }, (_, c) => bar(c)));
    expect(bars.reduce((sum, { clean }) => sum + clean, 0)).toBeCloseTo(1, 4);
    expect(await page.textContent("#truth")).toBe("true class: cross");
  });

  test("an attack lowers the true class's probability and stays inside eps", async () => {
    await choose(3);
    await page.click("#attack");
    await page.waitForSelector("body[data-attacked]");
    const { clean, attacked } = await bar(2);
    expect(attacked).toBeLessThan(clean * 0.9);
    const moved = Number(await page.getAttribute("#distance", "data-value"));
    expect(moved).toBeGreaterThan(0.02);
    expect(moved).toBeLessThanOrEqual(8 / 255 + 1e-6);
  });

  test("a telephone shows it without scrolling sideways", async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(360);
    await page.setViewportSize({ width: 1280, height: 720 });
  });

  test("a head learns classes of one's own", async () => {
    for (const [thumb, own] of [
      [1, 0],
      [2, 1],
      [11, 0],
      [12, 1],
    ] as const) {
      await choose(thumb);
      await page.click(`[data-add="${own}"]`);
    }
    await page.click("#train");
    await page.waitForSelector("#trained[data-after]");
    expect(Number(await page.getAttribute("#trained", "data-before"))).toBe(0.5);
    expect(Number(await page.getAttribute("#trained", "data-after"))).toBe(1);
    expect(await page.locator(".bar").count()).toBe(2);
  });

  test("an image that is dropped is taken, and a file that is none is refused", async () => {
    const png = Buffer.from(
      "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
      "base64",
    );
    const thumbs = await page.locator(".thumb").count();
    await page.setInputFiles("#file", { name: "one.png", mimeType: "image/png", buffer: png });
    await page.waitForSelector(`.thumb:nth-child(${thumbs + 1})`);
    expect(await page.isVisible("#fault")).toBe(false);
    await page.setInputFiles("#file", { name: "note.txt", mimeType: "text/plain", buffer: Buffer.from("hello") });
    await page.waitForSelector("#fault:not([hidden])");
    expect(await page.textContent("#fault")).toBe("note.txt is not an image that this browser reads");
    faults.length = 0;
  });

  test("nothing was asked from elsewhere, nothing failed", () => {
    expect(outside).toEqual([]);
    expect(faults).toEqual([]);
  });
});
