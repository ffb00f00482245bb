/** Plugins that are none, or that say what they bring in a wrong way: one sentence each. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "@jest/globals";
import { methodNames } from "../../graphs/methods/index.ts";
import { RequestError } from "../../src/errors.ts";
import { loadPlugins, pickNamed } from "../../src/plugins/plugins.ts";

const folder = mkdtempSync(join(tmpdir(), "plugins-"));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;
const written = (source: string): string => {
  const path = join(folder, `plugin-${files++}.mjs`);
  writeFileSync(path, source);
  return path;
};

test.each([
  ["export const methods = [];", "has no function as its default export"],
  ["export default () => { throw new Error('no kit'); };", "fails: no kit; correct it"],
  ["export default () => ({});", "brings no methods, attacks or losses"],
  ["export default () => ({ method: [] });", 'what it returns: Unrecognized key: "method"'],
  [
    "export default () => ({ losses: [{ name: 'My Loss', loss: () => 1 }] });",
    "losses.0.name: must be a name in lower",
  ],
  ["export default () => ({ losses: [{ name: 'dlr', loss: () => 1 }] });", "the loss dlr exists already"],
  ["export default () => ({ attacks: [{ name: 'pgd7', attack: () => {} }] });", "the attack pgd7 exists already"],
  ["export default () => ({ attacks: [{ name: 'mine' }] });", "attacks.0.attack: must be a function"],
  [
    "export default (kit) => ({ methods: [{ name: 'mine', title: '', evaluatedBranch: '', inputs() {}, build() {} }] });",
    "methods.0.options: is missing: make the method by defineMethod",
  ],
  ["export default (", "can't be loaded: "],
])("%s", async (source, message) => {
  const loading = loadPlugins([written(source)]);
  await expect(loading).rejects.toThrow(RequestError);
  await expect(loading).rejects.toThrow(message);
});

test("a file that is not there is named", async () => {
  await expect(loadPlugins([join(folder, "none.js")])).rejects.toThrow(/none\.js/);
});

test("a loss must give one number an image", async () => {
  const path = written(
    "export default ({ crossEntropy }) => ({ losses: [{ name: 'whole', loss: (logits, labels) => crossEntropy(logits, labels) }] });",
  );
  const { losses, files: loaded } = await loadPlugins([path]);
  expect(loaded).toEqual([{ file: path, sha256: expect.stringMatching(/^[0-9a-f]{64}$/) }]);
  const { input } = await import("../../graphs/onnx/graph.ts");
  const logits = input("logits", { dtype: "float32", shape: [4, 10] });
  const labels = input("labels", { dtype: "int32", shape: [4] });
  expect(() => losses.whole?.(logits, labels)).toThrow(
    /the loss whole gives the shape \[\] for logits \[4,10\] and must give one number an image, \[4\]/,
  );
});

test("two plugins may not bring the same name; without any there is what ships", async () => {
  const loss = "export default ({ dlr }) => ({ losses: [{ name: 'mine', loss: dlr }] });";
  await expect(loadPlugins([written(loss), written(loss)])).rejects.toThrow("the loss mine exists already");
  const none = await loadPlugins([]);
  expect(Object.keys(none.methods)).toEqual([...methodNames]);
  expect(() => pickNamed("method", "simlcr", none.methods)).toThrow(
    /^--method is "simlcr" but must be .*did you mean simclr\?$/,
  );
  expect(() => pickNamed("loss", "mine", none.losses)).toThrow(
    '--loss is "mine" but no plugin brings it; give the file that does by --plugin',
  );
});
