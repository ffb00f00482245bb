/** Where this user's files that can be made again are kept, as each system has it. */
import { homedir } from "node:os";
import { join } from "node:path";

/** `advcl` in the user's cache folder: XDG_CACHE_HOME where it is set, else that of the system. */
export const cacheFolder = (): string => {
  const { XDG_CACHE_HOME, LOCALAPPDATA } = process.env;
  const own =
    process.platform === "win32"
      ? (LOCALAPPDATA ?? join(homedir(), "AppData", "Local"))
      : process.platform === "darwin"
        ? join(homedir(), "Library", "Caches")
        : join(homedir(), ".cache");
  return join(XDG_CACHE_HOME || own, "advcl");
};
