/**
 * Drives the page in headless Chromium and keeps pictures of it.
 *
 *   node dist/scripts/browser/screenshot.js URL OUT_DIR [--width 1240] [--webgpu]
 *
 * Chromium is that of $ADVCL_CHROMIUM, else /usr/bin/chromium. With --webgpu it computes on its software Vulkan: right
 * for correctness, says nothing of speed.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { RequestError } from "../../src/errors.ts";
import { readFlags } from "../flags.ts";

const { values, positionals } = readFlags(import.meta.url, {
  allowPositionals: true,
  options: { width: { type: "string", default: "1240" }, webgpu: { type: "boolean", default: false } },
});
const [url, out] = positionals;
const executablePath = process.env.ADVCL_CHROMIUM ?? "/usr/bin/chromium";
const gpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];
if (url === undefined || out === undefined) throw new RequestError("give the address of the page and a folder");
await mkdir(out, { recursive: true });

const browser = await chromium.launch({
  executablePath,
  headless: true,
  args: ["--no-sandbox", "--disable-background-networking", ...(values.webgpu ? gpu : ["--disable-gpu"])],
});
try {
  for (const colorScheme of ["light", "dark"] as const) {
    const page = await browser.newPage({ viewport: { width: Number(values.width), height: 860 }, colorScheme });
    page.on("console", (message) => console.log(`[${message.type()}] ${message.text()}`));
    page.on("requestfailed", (request) => console.log(`failed: ${request.url()}`));
    await page.goto(url);
    await page.waitForSelector("body[data-ready]", { timeout: 120_000 });
    console.log("engine:", await page.textContent("#engine"));
    await page.screenshot({ path: join(out, `${colorScheme}-start.png`) });
    await page.click(".thumb:nth-child(3)");
    await page.click("#attack");
    await page.waitForSelector("body[data-attacked]", { timeout: 120_000 });
    console.log("attacked:", await page.textContent("#summary"), await page.textContent("#distance"));
    await page.screenshot({ path: join(out, `${colorScheme}-attacked.png`) });
    for (const [thumb, own] of [
      [1, 0],
      [2, 1],
      [11, 0],
      [12, 1],
      [21, 0],
      [22, 1],
    ] as const) {
      const before = await page.getAttribute("body", "data-chosen");
      await page.click(`.thumb:nth-child(${thumb})`);
      await page.waitForSelector(`body:not([data-chosen="${before}"])`);
      await page.click(`[data-add="${own}"]`);
    }
    await page.click("#train");
    await page.waitForSelector("#trained[data-after]", { timeout: 120_000 });
    console.log("trained:", await page.textContent("#trained"));
    await page.click("#attack");
    await page.waitForTimeout(3000);
    await page.screenshot({ path: join(out, `${colorScheme}-taught.png`), fullPage: true });
    await page.close();
  }
} finally {
  await browser.close();
}
