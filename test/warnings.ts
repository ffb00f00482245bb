/**
 * Warnings and errors of a command on stderr, but the hint that a classifier is no better than chance, which it isn't after the few steps that tests have time for.
 */
export const faultsIn = (stderr: string): string[] =>
  stderr.split("\n").filter((line) => /error|warn/i.test(line) && !line.includes("is no better than chance on"));
