import { RequestError } from "../../errors.ts";
import { nearestName } from "../../settings/resolve.ts";
import type { Command, CommandEntry } from "../command.ts";
import { asksHelp } from "../flags.ts";

const usage = "write advcl config COMMAND [--setting value …]";

/** The command whose settings are asked for. It takes that command's flags, so it has no rows of its own. */
const loadTarget = async (
  commands: Readonly<Record<string, CommandEntry>>,
  target: string | undefined,
): Promise<Command> => {
  const names = Object.keys(commands).filter((name) => name !== "config");
  if (target === undefined || target.startsWith("-")) throw new RequestError(`advcl config needs a command: ${usage}`);
  const entry = names.includes(target) ? commands[target] : undefined;
  if (entry !== undefined) return entry.load();
  const nearest = nearestName(target, names);
  const remedy = nearest === undefined ? "see advcl --help" : `did you mean ${nearest}?`;
  throw new RequestError(`there are no settings of ${JSON.stringify(target)}, which is no command; ${remedy}`);
};

/** Prints the settings of another command of a table. */
export const configCommand = (commands: Readonly<Record<string, CommandEntry>>): Command => ({
  name: "config",
  summary: "print all settings of a command as YAML",
  rows: {},
  help: () =>
    `advcl config: print all settings of a command as YAML\n\nUsage: advcl config COMMAND [--setting value …]\n\nTakes the settings of COMMAND, from flags, --config and --preset, and prints what they resolve to: a file for\n--config, each value with its source (default, preset, file, flag). With --json it prints one line of JSON.\n`,
  configure: async () => ({ settings: {}, text: "" }),
  execute: async ([target, ...args], { stdout }) => {
    if (target === undefined && asksHelp(args)) return 0;
    const command = await loadTarget(commands, target);
    stdout.write((await command.configure(args)).text);
    return 0;
  },
});
