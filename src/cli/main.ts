#!/usr/bin/env node
/** Begins the program. It imports nothing before it can say what stands in the way of that: a machine may lack files or memory. */
const begin = async (): Promise<void> => {
  try {
    const { main } = await import("./program.ts");
    main();
  } catch (error) {
    const { code = "", message } = error as NodeJS.ErrnoException;
    const sentence = ["EMFILE", "ENFILE"].includes(code)
      ? "too many files are open to load the program; raise the limit (ulimit -n 1024)"
      : `the program can't be loaded (${message}); install it anew with npm ci`;
    process.stderr.write(`error: ${sentence}\n`);
    process.exitCode = 1;
  }
};

await begin();
