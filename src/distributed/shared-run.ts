/** The run folder of several ranks: rank 0 holds and writes it, the others are told where it goes on. */
import { deserialize, serialize } from "node:v8";
import type { Checkpoint } from "../runs/checkpoint.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import type { Collective } from "./collective.ts";

type Told = Pick<RunFolder, "path" | "config" | "resumed">;

/**
 * Opens the run folder on rank 0 and tells the others of it by broadcast, so that they need not see the same disk; what they
 * write goes nowhere.
 */
export const openShared = async (collective: Collective, open: () => Promise<RunFolder>): Promise<RunFolder> => {
  if (collective.size === 1) return open();
  if (collective.rank === 0) {
    const run = await open();
    const { path, config, resumed } = run;
    await collective.broadcast(serialize({ path, config, resumed } satisfies Told));
    return run;
  }
  const { path, config, resumed } = deserialize(await collective.broadcast(new Uint8Array())) as Told;
  return {
    ...{ path, config, resumed: resumed as Checkpoint | undefined },
    appendTo: () => ({ size: 0, append: () => {}, sync: () => {}, close: () => {} }),
    save: async () => path,
    close: async () => {},
  };
};
