/** What is done where CUDA cannot capture a program as a graph. */
import { expect, jest, test } from "@jest/globals";
import { float32 } from "../../../graphs/onnx/tensor.ts";
import { capturedOrPlain, isCaptureError } from "../../../src/engine/native/capture.ts";
import type { Session } from "../../../src/engine/session.ts";
import { RunError } from "../../../src/errors.ts";

test("a classifier whose attack cannot be captured is attacked without a graph", async () => {
  const y = { y: float32([], [1]) };
  const counts = { graphed: 0, plain: 0, loaded: 0, released: 0 };
  const session = (run: Session["run"]): Session => ({
    inputNames: [],
    outputNames: ["y"],
    run,
    runOnDevice: () => run({}),
    endProfiling: () => undefined,
    release: async () => {
      counts.released += 1;
    },
  });
  const graphed = session(async () => {
    counts.graphed += 1;
    throw new RunError("onnxruntime: CUDA failure 900: operation not permitted when stream is capturing ; GPU=0");
  });
  const plain = async () => {
    counts.loaded += 1;
    return session(async () => {
      counts.plain += 1;
      return y;
    });
  };
  const warned = jest.spyOn(process, "emitWarning").mockImplementation(() => undefined);
  const both = capturedOrPlain(graphed, plain);
  expect(await Promise.all([both.run({}), both.run({})])).toEqual([y, y]);
  expect(await both.run({})).toEqual(y);
  expect(warned).toHaveBeenCalledTimes(1);
  warned.mockRestore();
  await both.release();
  expect(counts).toEqual({ graphed: 2, plain: 3, loaded: 1, released: 2 });
  const empty = new RunError(
    "onnxruntime: /src/core/providers/cuda/cuda_graph.cc:63 void onnxruntime::CUDAGraphManager::CaptureEnd(int) CUDAGraph::CaptureEnd: graph_ is NULL",
  );
  expect(isCaptureError(empty)).toBe(true);
  const failing = capturedOrPlain(
    session(() => Promise.reject(new RunError("onnxruntime: no memory"))),
    plain,
  );
  await expect(failing.run({})).rejects.toThrow("no memory");
});
