import { expect, test } from "@jest/globals";
import { webEngine } from "../../src/deploy/web.ts";

test("a browser's engine that is not installed is told with the remedy", () => {
  expect(webEngine("onnxruntime-web")).toMatch(/onnxruntime-web/);
  expect(() => webEngine("no-such-engine" as "onnxruntime-web")).toThrow(
    "the browser's engine is not installed; install it with npm install --no-save --include=optional no-such-engine",
  );
});
