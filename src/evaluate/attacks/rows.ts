/** Rows one after the other, in memory of their own. */
export const packed = (rows: readonly Float32Array[]): Float32Array => {
  const all = new Float32Array(rows.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const row of rows) {
    all.set(row, at);
    at += row.length;
  }
  return all;
};
