import { RequestError } from "../../errors.ts";
import { recipeNames } from "../../settings/config-file.ts";
import type { Command, CommandEntry } from "../command.ts";
import { type Shell, shells } from "../completion.ts";

const names = Object.keys(shells);

/** Prints what a shell completes the commands of a table by. */
export const completionCommand = (commands: Readonly<Record<string, CommandEntry>>): Command => ({
  name: "completion",
  summary: "print what completes commands and flags in bash, zsh or fish",
  rows: {},
  help: () =>
    `advcl completion: print what completes commands and flags in bash, zsh or fish\n\nUsage: advcl completion ${names.join("|")}\n\nFor bash:  advcl completion bash >> ~/.bashrc\nFor zsh:   advcl completion zsh >> ~/.zshrc\nFor fish:  advcl completion fish > ~/.config/fish/completions/advcl.fish\n\nThe shell must know advcl by that name: npm link, in a checkout, or npm install --global.\n`,
  configure: async () => ({ settings: {}, text: "" }),
  execute: async ([shell = "", ...rest], { stdout }) => {
    if (!Object.hasOwn(shells, shell) || rest.length > 0)
      throw new RequestError(`advcl completion needs the name of a shell: write advcl completion ${names.join("|")}`);
    const others = Object.entries(commands).filter(([name]) => name !== "completion");
    const loaded = await Promise.all(others.map(([, { load }]) => load()));
    stdout.write(shells[shell as Shell](loaded, recipeNames()));
    return 0;
  },
});
