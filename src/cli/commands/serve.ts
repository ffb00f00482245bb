import { serve } from "../../serve/serve.ts";
import { defineCommand } from "../command.ts";

export const serveCommand = defineCommand({
  verb: serve,
  summary: "open a trained classifier in the browser, attack it and teach it",
  description:
    "Serves a page that runs the classifier in the browser (onnxruntime-web: WebGPU where there is one, else WebAssembly): predictions of built-in or dropped images, PGD attacks on them, and a linear head that learns classes of your own. Nothing is loaded from elsewhere, and images stay in the page. With --out it writes the page as a folder of static files for any web server, instead of serving it.",
});
