/** Calls `use` for 0 to count - 1, so many at once; the first failure stops the others and is thrown when all have ended. */
export const forEach = async (count: number, atOnce: number, use: (i: number) => Promise<void>): Promise<void> => {
  let next = 0;
  const some = async (): Promise<void> => {
    while (next < count) {
      const i = next++;
      await use(i).catch((cause: unknown) => {
        next = count;
        throw cause;
      });
    }
  };
  const outcomes = await Promise.allSettled(Array.from({ length: atOnce }, some));
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed !== undefined) throw failed.reason;
};
