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

/** What is run as a CUDA graph or, from the first capture that fails, without one. */
export interface OrPlain<P> {
  /** What it runs on now. */
  now(): P;
  /** Runs on it. Where its capture fails, says so, loads it without a graph and runs there. */
  run<R>(work: (program: P) => Promise<R>): Promise<R>;
  /** What was loaded without a graph, once it is; undefined where nothing was, or could be. */
  plain(): Promise<P | undefined>;
}

/** @param load loads the same to run without a graph, at most once; undefined where `graphed` has none to do without */
export const orWithoutGraph = <P>(graphed: P, load: (() => Promise<P>) | undefined): OrPlain<P> => {
  let other: Promise<P> | undefined;
  let now = graphed;
  return {
    now: () => now,
    run: async (work) => {
      if (other !== undefined) return work(await other);
      try {
        return await work(graphed);
      } catch (error) {
        if (load === undefined || !isCaptureError(error)) throw error;
        // Of runs at the same time, the first to fail says so.
        if (other === undefined) tellWithoutGraph(error);
        other ??= load();
        now = await other;
        return work(now);
      }
    },
    // The run that had it loaded has thrown why it could not be.
    plain: async () => other?.catch(() => undefined),
  };
};

/**
 * A session that is replayed as a CUDA graph or, once its capture has failed, the one that `plain` loads.
 * @param plain loads the same program to run without a graph; called at most once
 */
export const capturedOrPlain = (graphed: Session, plain: () => Promise<Session>): Session => {
  const either = orWithoutGraph(graphed, plain);
  const run: Session["run"] = (feeds, fetches) => either.run((session) => session.run(feeds, fetches));
  return {
    inputNames: graphed.inputNames,
    outputNames: graphed.outputNames,
    run,
    runOnDevice: (feeds) => run(feeds as Parameters<Session["run"]>[0]),
    endProfiling: () => graphed.endProfiling(),
    release: async () => {
      await graphed.release();
      await (await either.plain())?.release();
    },
  };
};
