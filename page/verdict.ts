/** Bars of probabilities and the curve of an attack. */

const percent = (share: number): string =>
  share >= 0.9995 ? "100 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

const shownClasses = 10;

/** Bars of the classes that matter most, before and after an attack. `truth` is marked. */
export const showBars = (
  element: HTMLElement,
  classes: readonly string[],
  clean: readonly number[],
  attacked: readonly number[] | undefined,
  truth: number,
): void => {
  const weight = (c: number): number => Math.max(clean[c] ?? 0, attacked?.[c] ?? 0);
  const all = classes.map((_, c) => c);
  const shown =
    classes.length <= shownClasses ? all : [...all].sort((a, b) => weight(b) - weight(a)).slice(0, shownClasses);
  element.replaceChildren(
    ...shown.map((c) => {
      const row = document.createElement("div");
      row.className = c === truth ? "bar true" : "bar";
      row.dataset.class = String(c);
      row.dataset.clean = String(clean[c] ?? 0);
      if (attacked !== undefined) row.dataset.attacked = String(attacked[c] ?? 0);
      const name = document.createElement("span");
      name.className = "name";
      name.textContent = classes[c] ?? "";
      name.title = classes[c] ?? "";
      const tracks = document.createElement("span");
      tracks.className = "tracks";
      const track = (share: number, kind: string) => {
        const line = document.createElement("i");
        line.className = kind;
        line.style.setProperty("--share", `${100 * share}%`);
        return line;
      };
      tracks.append(track(clean[c] ?? 0, "clean"));
      if (attacked !== undefined) tracks.append(track(attacked[c] ?? 0, "bad"));
      const numbers = document.createElement("span");
      numbers.className = "numbers";
      numbers.append(percent(clean[c] ?? 0));
      if (attacked !== undefined) {
        const after = document.createElement("b");
        after.textContent = percent(attacked[c] ?? 0);
        numbers.append(" → ", after);
      }
      row.append(name, tracks, numbers);
      return row;
    }),
  );
};

const svg = (name: string, attributes: Readonly<Record<string, string>>): SVGElement => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

/** Lines over the steps of an attack, each of numbers in [0, 1]. */
export const showCurve = (
  element: SVGSVGElement,
  lines: readonly { readonly values: readonly number[]; readonly colour: string }[],
  steps: number,
): void => {
  const [width, height] = [element.clientWidth || 320, 96];
  element.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const place = (value: number, i: number): string =>
    `${((i / Math.max(1, steps)) * width).toFixed(1)},${(height - 6 - value * (height - 14)).toFixed(1)}`;
  const marks = [0, 0.5, 1].map((share) => {
    const y = (height - 6 - share * (height - 14)).toFixed(1);
    return svg("line", { class: "mark-line", x1: "0", x2: String(width), y1: y, y2: y });
  });
  const drawn = lines.map(({ values, colour }) =>
    svg("polyline", { points: values.map(place).join(" "), style: `stroke: var(${colour})` }),
  );
  const labels = (
    [
      [0, "0"],
      [1, "1"],
    ] as const
  ).map(([share, text]) => {
    const label = svg("text", { x: "0", y: (height - 9 - share * (height - 14)).toFixed(1), class: "axis" });
    label.textContent = text;
    return label;
  });
  element.replaceChildren(...marks, ...drawn, ...labels);
};
