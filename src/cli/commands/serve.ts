import { copyFile, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { datasetNames } from "../../data/dataset.ts";
import { makeFolder, writeFileAtomic } from "../../files/atomic.ts";
import { fileError } from "../../files/file-error.ts";
import { servePage } from "../../serve/server.ts";
import { pageFiles } from "../../serve/source.ts";
import { defineCommand } from "../command.ts";

export const serve = defineCommand({
  name: "serve",
  summary: "open a trained classifier in the browser, attack it and teach it",
  description:
    "Serves a page that runs the classifier in the browser (onnxruntime-web: WebGPU where there is one, else WebAssembly): predictions of built-in or dropped images, PGD attacks on them, and a linear head that learns classes of your own. Nothing is loaded from elsewhere, and images stay in the page. With --out it writes the page as a folder of static files for any web server, instead of serving it.",
  settings: {
    from: { type: "path", required: true, help: "run folder or ONNX classifier of one square image" },
    branch: { type: "string", default: "auto", help: "batch-norm branch of a run; auto: the one it is evaluated by" },
    dataset: { type: "enum", values: datasetNames, help: "images to try (default: the run's, else shapes)" },
    data: { type: "path", help: "folder or archive of that dataset" },
    samples: { type: "integer", default: 30, min: 0, max: 300, help: "images to try" },
    classNames: { type: "strings", help: "names of the model's classes" },
    mean: { type: "numbers", help: "of each channel, which the model wants taken off pixels in [0, 1]" },
    std: { type: "numbers", help: "of each channel, which it wants them divided by then" },
    size: { type: "integer", min: 8, max: 1024, help: "side of the images, where a model leaves it open" },
    eps: { type: "number", default: 8 / 255, min: 0, max: 32 / 255, help: "strength that the slider starts at" },
    port: { type: "integer", default: 8080, min: 0, max: 65535, help: "0 takes a free one" },
    host: { type: "string", default: "127.0.0.1", help: "address to listen at; the default is this machine only" },
    out: { type: "path", help: "folder to write the page to, instead of serving it" },
  },
  run: async (settings, context) => {
    const { out, samples: count, host, port } = settings;
    const files = await pageFiles({ ...settings, samples: count }, context.warn);
    if (out !== undefined) {
      try {
        await makeFolder(join(out, "ort"));
        for (const [name, file] of files) {
          const path = join(out, name);
          await mkdir(dirname(path), { recursive: true });
          if (file instanceof Uint8Array) await writeFileAtomic(path, file);
          else await copyFile(file.path, path);
        }
      } catch (error) {
        throw fileError(error, "write", out);
      }
      context.print(`${out}: ${files.size} files; serve them from any web server`);
      context.result({ out, files: files.size });
      return;
    }
    const { signal } = context;
    const page = await servePage(files, { host, port });
    context.print(`${page.url} (Ctrl-C ends it)`);
    await new Promise<void>((done) => {
      if (signal.aborted) done();
      signal.addEventListener("abort", () => done(), { once: true });
    });
    await page.close();
    context.result({ url: page.url });
  },
});
