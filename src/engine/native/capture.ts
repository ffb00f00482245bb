/** What is done where CUDA cannot capture a program as a graph, which only its first runs show: it runs without one. */
import { RunError } from "../../errors.ts";
import type { Session } from "../session-contract.ts";

/** Whether an error is one of a capture: cudaErrorStreamCapture… are 900 to 908, and onnxruntime's own checks are in cuda_graph.cc. */
export const isCaptureError = (error: unknown): boolean =>
  error instanceof RunError && /CUDA failure 90\d\b|\bcuda_graph\.cc\b/.test(error.message);

/** Says so, once for each program: it is slower and right all the same. */
export const tellWithoutGraph = (error: unknown): void => {
  const message = error instanceof Error ? error.message : String(error);
  const [, reason = message] = /(CUDA failure 90\d[^;]*|CUDAGraph::.*)/.exec(message) ?? [];
  process.emitWarning(`this program runs without a CUDA graph: ${reason.trim()}`);
};

/**
 * A session that is replayed as a CUDA graph or, once its capture has failed, the one that `plain` loads.
 * @param plain loads the same program to run without a graph; called at most once
 */
export const capturedOrPlain = (graphed: Session, plain: () => Promise<Session>): Session => {
  let other: Promise<Session> | undefined;
  const run: Session["run"] = async (feeds, fetches) => {
    if (other !== undefined) return (await other).run(feeds, fetches);
    try {
      return await graphed.run(feeds, fetches);
    } catch (error) {
      if (!isCaptureError(error)) throw error;
      if (other === undefined) tellWithoutGraph(error);
      other ??= plain();
      return (await other).run(feeds, fetches);
    }
  };
  return {
    inputNames: graphed.inputNames,
    outputNames: graphed.outputNames,
    run,
    runOnDevice: (feeds) => run(feeds as Parameters<Session["run"]>[0]),
    endProfiling: () => graphed.endProfiling(),
    release: async () => {
      await graphed.release();
      await (await other)?.release();
    },
  };
};
