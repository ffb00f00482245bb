/** The program: chooses the command, says what went wrong, leaves with a code. */
import { launched } from "../distributed/launcher.ts";
import { abortRanks, leaveRanks } from "../distributed/ranks.ts";
import { exitCode, isOurs, RequestError } from "../errors.ts";
import { nearestName } from "../settings/resolve.ts";
import { version } from "../version.ts";
import { commands } from "./commands/index.ts";
import { asksHelp } from "./flags.ts";
import { printColumns } from "./help.ts";
import { shortage } from "./shortage.ts";

const { stdout, stderr } = process;

/** Columns to write in: the terminal's, within what reads well. */
const width = (): number => Math.min(Math.max(stdout.columns ?? 100, 60), 110);

const overview = (): string => {
  const rows = Object.entries(commands).map(([name, { summary }]) => [name, summary] as const);
  return `advcl: adversarially robust self-supervised training on stock ONNX Runtime

Usage: advcl COMMAND [--setting value …]

Commands:
${printColumns(rows, width())}

advcl COMMAND --help lists the settings of a command; advcl --version prints the version.
`;
};

/** Runs the command line. Returns the exit code; throws what went wrong. */
const run = async ([name, ...args]: readonly string[]): Promise<number> => {
  const before = args.includes("--") ? args.slice(0, args.indexOf("--")) : args;
  if (name === "--version" || name === "-V" || name === "-v" || before.includes("--version")) {
    stdout.write(`${version()}\n`);
    return 0;
  }
  if (name === undefined || name === "--help" || name === "-h" || (name === "help" && args.length === 0)) {
    stdout.write(overview());
    return 0;
  }
  if (name === "help") return run([...args, "--help"]);
  if (name.startsWith("-")) throw new RequestError(`the command comes before ${name}: write advcl COMMAND ${name}`);
  if (!Object.hasOwn(commands, name)) {
    const nearest = nearestName(name, Object.keys(commands));
    const remedy = nearest === undefined ? "see advcl --help" : `did you mean ${nearest}?`;
    throw new RequestError(`there is no command ${JSON.stringify(name)}; ${remedy}`);
  }
  const command = await commands[name]!.load();
  if (!asksHelp(args)) return command.execute(args, { stdout, stderr });
  stdout.write(command.help(width()));
  return 0;
};

/** Says what went wrong, in one sentence; the stack too with --debug. */
const report = (error: unknown): number => {
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  const debug = process.argv.includes("--debug");
  const lacking = shortage(error);
  const hint =
    isOurs(error) || debug ? "" : "; this is a fault of advcl: run it again with --debug and report what it prints";
  stderr.write(`error: ${lacking ?? `${message}${hint}`}\n`);
  if (debug)
    stderr.write(`${stack}\n${error instanceof Error && error.cause ? `cause: ${String(error.cause)}\n` : ""}`);
  return exitCode(error);
};

/** Leaves, and has all ranks leave where one failed: the first gets to speak before the others, whose fault is mostly the same. */
const leaveTogether = (code: number, say: () => void = () => {}): void => {
  if (code === 0) leaveRanks();
  const rank = launched()?.rank ?? 0;
  const end = () => {
    say();
    if (code !== 0) stderr.write("", () => abortRanks(code));
    leave(code);
  };
  if (code !== 0 && rank > 0) setTimeout(end, 5000);
  else end();
};

/** Leaves once everything is written: pipes are written to in the background. */
const leave = (code: number): void => {
  done = true;
  stdout.write("", () => {
    // A stream that failed tells so here first.
    if (stdout.errored) unwritten(stdout.errored);
    stderr.write("", () => process.exit(code));
  });
};

/** Whether the command has ended. */
let done = false;

/** Ends where results find no reader: well where one has seen enough (advcl --help | head), else with a sentence. */
const unwritten = (error: NodeJS.ErrnoException): never => {
  if (error.code === "EPIPE") process.exit(0);
  stderr.write(`error: the results can't be written (${error.message}); give stdout room, or --out a folder\n`);
  process.exit(1);
};

stdout.on("error", unwritten);
stderr.on("error", () => {}); // nobody listens any more; the work goes on
process.on("uncaughtException", (error) => leave(report(error)));
process.on("beforeExit", () => {
  // Node leaves with 0 when nothing is pending, even if the command has not returned.
  if (!done) leave(report(new Error("internal: the command ended before its work was done")));
});

/** Runs the command line of this process, and leaves with its exit code. */
export const main = (): void => {
  run(process.argv.slice(2)).then(
    (code) => leaveTogether(code),
    (error: unknown) => leaveTogether(exitCode(error), () => report(error)),
  );
};
