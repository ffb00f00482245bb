/** What a machine lacks, in whatever words its parts say so: Node, WebAssembly, onnxruntime, sharp, the dynamic linker. */

const shortages: readonly (readonly [RegExp, string])[] = [
  [/\bEMFILE\b|too many open files/i, "too many files are open; raise the limit (ulimit -n 1024)"],
  [/\bENFILE\b/, "too many files are open on this machine; end other programs"],
  [
    /bad_alloc|\bENOMEM\b|cannot allocate memory|could not allocate memory|array buffer allocation failed|failed to map segment|ERR_WORKER_OUT_OF_MEMORY|out of memory|failed to allocate memory/i,
    "memory ran out; end other programs, raise the limit (ulimit -v unlimited) or use a machine with more: 2 GB are enough for small runs; --batch, --threads and --workers take less where they are lower",
  ],
  [
    /pthread_create failed|ERR_WORKER_INIT_FAILED|(thread|spawn).*\bEAGAIN\b|resource temporarily unavailable/i,
    "the machine gives no more threads or processes; raise the limit (ulimit -u) or lower --threads and --workers",
  ],
];

/** The sentence for an error that tells of a shortage, with what was said of it first; undefined where it does not. */
export const shortage = (error: unknown): string | undefined => {
  const said: string[] = [];
  for (let cause = error, depth = 0; cause instanceof Error && depth < 8; cause = cause.cause, depth++)
    said.push(`${(cause as NodeJS.ErrnoException).code ?? ""} ${cause.message}`);
  const found = shortages.find(([pattern]) => said.some((text) => pattern.test(text)));
  if (found === undefined) return undefined;
  const message = (error as Error).message;
  // A sentence of ours names the remedy already.
  if (message.includes("ulimit -n")) return message;
  const words = message.split("\n").find((line) => line.trim() !== "") ?? "";
  return `${words.replace(/[\s:.]+$/, "")}: ${found[1]}`;
};
