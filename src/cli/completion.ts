/** Scripts that complete commands, flags and their values in shells. */
import { kebabCase } from "../settings/name.ts";
import { isList, type SettingRow, type SettingRows } from "../settings/schema.ts";

/** A command as completion needs it. */
export interface Completed {
  readonly name: string;
  readonly summary: string;
  readonly rows: SettingRows;
}

/** A flag with what may stand after it: names, a path, something else, or nothing. */
interface CompletedFlag {
  readonly flag: string;
  readonly help: string;
  readonly values: readonly string[] | "path" | "other" | "none";
}

const valuesOf = (row: SettingRow): CompletedFlag["values"] => {
  if (row.type === "boolean") return "none";
  if (row.type === "path") return "path";
  return row.values.length > 0 ? row.values : "other";
};

const flagsOf = ({ rows }: Completed): readonly CompletedFlag[] => [
  ...Object.entries(rows).flatMap(([key, row]): CompletedFlag[] => {
    const name = kebabCase(key);
    const { help } = row;
    const negated = { flag: `no-${name}`, help: `without: ${help}`, values: "none" } as const;
    if (row.type === "boolean" && row.default === true) return [negated];
    return [{ flag: name, help, values: valuesOf(row) }, ...(isList(row) ? [negated] : [])];
  }),
  { flag: "help", help: "all settings", values: "none" },
];

/** A function of bash: the second word is the command, what follows are its flags and their values. */
const bash = (commands: readonly Completed[], recipes: readonly string[]): string => {
  const names = commands.map(({ name }) => name).join(" ");
  const values = commands.flatMap((command) =>
    flagsOf(command).flatMap(({ flag, values: known }) => {
      const key = `"${command.name} --${flag}"`;
      if (flag === "config") return [`    ${key}) reply=(-f -W "${recipes.join(" ")}") ;;`];
      if (known === "none") return [];
      if (known === "path") return [`    ${key}) reply=(-f) ;;`];
      return [`    ${key}) reply=(-W "${known === "other" ? "" : known.join(" ")}") ;;`];
    }),
  );
  const flags = commands.map((command) => {
    const list = flagsOf(command).map(({ flag }) => `--${flag}`);
    return `    ${command.name}) reply=(-W "${list.join(" ")}") ;;`;
  });
  return `_advcl() {
  local current="\${COMP_WORDS[COMP_CWORD]}" before="\${COMP_WORDS[COMP_CWORD-1]}" command="\${COMP_WORDS[1]}" reply=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "${names} help --help --version" -- "$current"))
    return
  fi
  if [ "$COMP_CWORD" -eq 2 ] && { [ "$command" = config ] || [ "$command" = help ]; }; then
    COMPREPLY=($(compgen -W "${names}" -- "$current"))
    return
  fi
  [ "$command" = config ] && command="\${COMP_WORDS[2]}"
  case "$command $before" in
${values.join("\n")}
    *) case "$command" in
${flags.join("\n")}
    esac ;;
  esac
  COMPREPLY=($(compgen "\${reply[@]}" -- "$current"))
}
complete -o filenames -F _advcl advcl
`;
};

const zsh = (commands: readonly Completed[], recipes: readonly string[]): string =>
  `autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n${bash(commands, recipes)}`;

const quoted = (text: string): string => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;

const fish = (commands: readonly Completed[], recipes: readonly string[]): string => {
  const lines = commands.flatMap((command) => {
    const { name, summary } = command;
    const within = `-n '__fish_seen_subcommand_from ${name}'`;
    return [
      `complete -c advcl -f -n __fish_use_subcommand -a ${name} -d ${quoted(summary)}`,
      ...flagsOf(command).map(({ flag, help, values }) => {
        const about = `complete -c advcl ${within} -l ${flag} -d ${quoted(help)}`;
        if (flag === "config") return `${about} -r -a ${quoted(recipes.join(" "))}`;
        if (values === "none") return `${about} -f`;
        if (values === "path") return `${about} -r`;
        return `${about} -x${values === "other" ? "" : ` -a ${quoted(values.join(" "))}`}`;
      }),
    ];
  });
  return `${lines.join("\n")}\n`;
};

export const shells = { bash, zsh, fish };
export type Shell = keyof typeof shells;
