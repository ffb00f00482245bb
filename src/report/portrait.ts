/** The pictures of a run: its images as training and attacks see them, and a map of its features. */
import { chart, Plot } from "./chart.ts";
import { card, cards, escaped, type Section, swatches } from "./page.ts";
import type { FeatureMap, Gallery, Groups, Portrait } from "./portrait-file.ts";

/** So many names stand under a map; of more groups the colours are told apart, not named. */
const mostNames = 24;

const galleryTable = ({ columns, rows }: Gallery): string => {
  const head = columns.map(({ title, note }) => `<th>${escaped(title)}<br><i>${escaped(note)}</i></th>`).join("");
  const picture = (png: string, k: number, label: string): string =>
    `<td><img alt="${escaped(`${label}, ${columns[k]?.title}`)}" src="data:image/png;base64,${escaped(png)}"></td>`;
  const lines = rows.map(
    ({ label, pictures }) =>
      `<tr><th>${escaped(label)}</th>${pictures.map((png, k) => picture(png, k, label)).join("")}</tr>`,
  );
  return `<div class="card scroll"><table class="gallery"><tr><th></th>${head}</tr>${lines.join("")}</table></div>`;
};

/** Colours of so many groups, as far apart as hues are. */
export const hues = (count: number): readonly string[] =>
  Array.from({ length: count }, (_, i) => `hsl(${Math.round((360 * i) / count)} ${i % 2 === 0 ? 75 : 55}% 52%)`);

const mapChart = (points: FeatureMap["points"], { of, names, source }: Groups): string => {
  const colours = hues(names.length);
  const known = of.some((group) => group < 0) ? [...names, "none"] : names;
  const shown = points.map(([x, y], i) => ({ x, y, colour: colours[of[i] ?? -1] ?? "#8888" }));
  // Distances mean the same in both directions, and UMAP's axes have no unit.
  const dots = chart({
    width: 420,
    height: 420,
    marginLeft: 10,
    marginRight: 10,
    marginTop: 10,
    marginBottom: 10,
    aspectRatio: 1,
    x: { axis: null, inset: 8 },
    y: { axis: null, inset: 8 },
    marks: [Plot.dot(shown, { x: "x", y: "y", r: 3.2, fill: "colour", fillOpacity: 0.85 })],
  });
  const keys =
    known.length <= mostNames
      ? swatches(known.map((name, i) => [name, colours[i] ?? "#8888"]))
      : `<p class="note">${names.length} groups</p>`;
  return card(`${keys}${dots}`, source);
};

/** A map of features, a chart for each colouring. */
export const mapCharts = ({ points, groups }: FeatureMap): string => cards(groups.map((one) => mapChart(points, one)));

/** The sections of a run's report that its portrait fills. */
export const portraitSections = ({ gallery, map }: Portrait): readonly Section[] => [
  ...(gallery.rows.length > 0 ? [{ title: "Images", body: galleryTable(gallery) }] : []),
  ...(map.points.length > 0 && map.groups.length > 0
    ? [
        {
          title: "Map of features",
          body: `${mapCharts(map)}<p class="note">${escaped(map.source)}</p>`,
        },
      ]
    : []),
];
