/**
 * A model of integers as attacks see it: what it says is asked of the file itself, so that attacks without gradients attack
 * that; gradients are those of its float32 shadow.
 */

import { tensor } from "../../../graphs/onnx/tensor.ts";
import type { AsIsClassifier } from "../../models/as-is-classifier.ts";
import type { Oracle, OracleOptions } from "./oracle.ts";
import { packed } from "./rows.ts";

export const asIsOracle = (
  shadow: Oracle,
  model: AsIsClassifier,
  { image, batch, fixed = false }: Pick<OracleOptions, "image" | "batch" | "fixed">,
): Oracle => {
  const pixels = image[0] * image[1] * image[2];
  /** What the file says of images one after the other [n,C,H,W], [n,classes]. */
  const logitsOf = async (x: Float32Array): Promise<Float32Array[]> => {
    const n = x.length / pixels;
    const rows: Float32Array[] = [];
    for (let from = 0; from < n; from += batch) {
      const count = Math.min(batch, n - from);
      const size = fixed ? batch : count;
      const data = new Float32Array(size * pixels);
      for (let i = 0; i < size; i++) {
        const at = from + Math.min(i, count - 1);
        data.set(x.subarray(at * pixels, (at + 1) * pixels), i * pixels);
      }
      rows.push(...(await model.logits(tensor("float32", [size, ...image], data))).slice(0, count));
    }
    return rows;
  };
  const oracle: Oracle = {
    batch,
    get replicas() {
      return [oracle];
    },
    rows: (n) => (fixed ? batch : n),
    answer: async (queries, steady) => {
      const logits = await logitsOf(packed(queries.map(({ x }) => x)));
      if (queries[0]?.kind === "logits")
        return logits.map((own) => ({ logits: own, loss: Number.NaN, gradient: new Float32Array(0) }));
      const answers = await shadow.answer(queries, steady);
      return answers.map((answer, i) => ({ ...answer, logits: logits[i]! }));
    },
    pgd: async (options, clean, start, labels) => {
      const { x } = await shadow.pgd(options, clean, start, labels);
      return { x, logits: packed(await logitsOf(x)) };
    },
    release: async () => {
      await shadow.release();
      await model.release();
    },
  };
  return oracle;
};
