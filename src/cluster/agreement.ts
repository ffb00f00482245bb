/** How clusters agree with true classes. */

/** Counts of each pair (cluster, class), row by row of clusters. */
const pairs = (clusters: Int32Array, classes: Int32Array): { table: Float64Array; rows: number; columns: number } => {
  if (clusters.length !== classes.length)
    throw new RangeError(`${clusters.length} clusters do not go with ${classes.length} classes`);
  const rows = clusters.reduce((a, b) => Math.max(a, b), 0) + 1;
  const columns = classes.reduce((a, b) => Math.max(a, b), 0) + 1;
  const table = new Float64Array(rows * columns);
  for (let i = 0; i < clusters.length; i++) table[clusters[i]! * columns + classes[i]!]! += 1;
  return { table, rows, columns };
};

/** Share of the images that belong to the commonest class of their cluster; 1 is best. */
export const purity = (clusters: Int32Array, classes: Int32Array): number => {
  const { table, rows, columns } = pairs(clusters, classes);
  let hits = 0;
  for (let r = 0; r < rows; r++)
    hits += table.subarray(r * columns, (r + 1) * columns).reduce((a, b) => Math.max(a, b), 0);
  return hits / clusters.length;
};

const entropy = (counts: Float64Array, total: number): number =>
  counts.reduce((sum, count) => (count === 0 ? sum : sum - (count / total) * Math.log(count / total)), 0);

/**
 * Normalised mutual information, 2·I(clusters; classes) / (H(clusters) + H(classes)): 0 where they are independent, 1
 * where one tells the other.
 */
export const normalizedMutualInformation = (clusters: Int32Array, classes: Int32Array): number => {
  const { table, rows, columns } = pairs(clusters, classes);
  const n = clusters.length;
  const ofClusters = new Float64Array(rows);
  const ofClasses = new Float64Array(columns);
  table.forEach((count, i) => {
    ofClusters[Math.floor(i / columns)]! += count;
    ofClasses[i % columns]! += count;
  });
  const [h1, h2, both] = [entropy(ofClusters, n), entropy(ofClasses, n), entropy(table, n)];
  return h1 + h2 === 0 ? 1 : Math.max(0, (2 * (h1 + h2 - both)) / (h1 + h2));
};
