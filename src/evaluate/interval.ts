/** Wilson's 95 % interval (Wilson 1927) of a share of `hits` out of `count`; [0, 1] where nothing was counted. */
export const wilsonInterval = (hits: number, count: number): [low: number, high: number] => {
  if (count === 0) return [0, 1];
  const z = 1.959963984540054;
  const share = hits / count;
  const scale = 1 + z ** 2 / count;
  const centre = (share + z ** 2 / (2 * count)) / scale;
  const half = (z / scale) * Math.sqrt((share * (1 - share)) / count + z ** 2 / (4 * count ** 2));
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
};
