/** The page of a classifier, served to a browser or written as a folder. */
import { copyFile, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { z } from "zod";
import { datasetNames } from "../data/dataset.ts";
import { chooseEngine } from "../engine/engine.ts";
import { makeFolder, writeFileAtomic } from "../files/atomic.ts";
import { fileError } from "../files/file-error.ts";
import { modelSettings } from "../settings/fragments.ts";
import { path, setting } from "../settings/schema.ts";
import type { Resolved } from "../settings/spec.ts";
import { defineVerb, type VerbContext } from "../verbs/verb.ts";
import type { PageFiles } from "./build.ts";
import { servePage } from "./server.ts";
import { pageFiles } from "./source.ts";

const serveSettings = {
  from: setting(
    path(),
    "ONNX classifier of one square image, or run: its folder, its file by export, or the name of one that ships",
    { path: true },
  ),
  branch: setting(z.string().default("auto"), "batch-norm branch of a run; auto: the one it is evaluated by"),
  dataset: setting(z.enum(datasetNames).optional(), "images to try (default: the run's, else shapes)"),
  data: setting(path().optional(), "folder or archive of that dataset", { path: true }),
  samples: setting(z.int().min(0).max(300).default(30), "images to try"),
  classNames: setting(z.array(z.string()).optional(), "names of the model's classes"),
  ...modelSettings,
  mean: setting(z.array(z.number()).optional(), "of each channel, which the model wants taken off pixels in [0, 1]"),
  std: setting(z.array(z.number()).optional(), "of each channel, which it wants them divided by then"),
  size: setting(z.int().min(8).max(1024).optional(), "side of the images, where a model leaves it open"),
  eps: setting(
    z
      .number()
      .min(0)
      .max(32 / 255)
      .default(8 / 255),
    "strength that the slider starts at",
    { ofPixels: true },
  ),
  port: setting(z.int().min(0).max(65535).default(8080), "0 takes a free one"),
  host: setting(z.string().default("127.0.0.1"), "address to listen at; the default is this machine only"),
  out: setting(path().optional(), "folder to write the page to, instead of serving it", { path: true }),
};

type Settings = Resolved<typeof serveSettings>;

/** Where the page was served, or what was written of it. */
export type ServeResult =
  | { readonly url: string }
  | {
      /** The folder. */
      readonly out: string;
      /** Number of files in it. */
      readonly files: number;
    };

const writePage = async (files: PageFiles, out: string): Promise<void> => {
  try {
    await makeFolder(join(out, "ort"));
    for (const [name, file] of files) {
      const target = join(out, name);
      await mkdir(dirname(target), { recursive: true });
      if (file instanceof Uint8Array) await writeFileAtomic(target, file);
      else await copyFile(file.path, target);
    }
  } catch (error) {
    throw fileError(error, "write", out);
  }
};

const run = async (settings: Settings, context: VerbContext): Promise<ServeResult> => {
  const { out, host, port } = settings;
  const files = await pageFiles(settings, context.warn, await chooseEngine(settings));
  if (out !== undefined) {
    await writePage(files, out);
    context.print(`${out}: ${files.size} files; serve them from any web server`);
    return { out, files: files.size };
  }
  const { signal } = context;
  const page = await servePage(files, { host, port });
  context.print(`${page.url} (Ctrl-C ends it)`);
  await new Promise<void>((done) => {
    if (signal.aborted) done();
    signal.addEventListener("abort", () => done(), { once: true });
  });
  await page.close();
  return { url: page.url };
};

/**
 * Serves the page of a classifier (`from`) until the signal is aborted, which is its regular end; with `out` writes the page
 * as a folder of static files instead.
 *
 * @throws RequestError where the model is no classifier of square images, or the port is taken
 */
export const serve = defineVerb({ name: "serve", settings: serveSettings }, run);
