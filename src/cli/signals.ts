/** Ctrl-C and its like, as a signal that a verb can heed. */
import { constants } from "node:os";

export interface Watch {
  readonly signal: AbortSignal;
  /** The exit code of the signal that came: 130 or 143. */
  code(): number;
  stop(): void;
}

/** Aborts on the first signal that ends processes, gives way to the second. */
export const watchSignals = (warn: (message: string) => void): Watch => {
  const controller = new AbortController();
  const names = ["SIGINT", "SIGTERM"] as const;
  let code = 0;
  const stop = (): void => {
    for (const name of names) process.off(name, handle);
  };
  const handle = (name: (typeof names)[number]): void => {
    code = 128 + constants.signals[name];
    stop(); // the next one acts as if nobody watched
    warn("stopping after this step; a second signal stops at once");
    controller.abort();
  };
  for (const name of names) process.on(name, handle);
  return { signal: controller.signal, code: () => code, stop };
};
