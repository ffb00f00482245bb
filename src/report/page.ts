/** A report as one HTML file that loads nothing. */
import { colours } from "./chart.ts";

export const escaped = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);

export interface Section {
  readonly title: string;
  /** HTML. */
  readonly body: string;
}

export interface Page {
  readonly title: string;
  /** One line under it. */
  readonly subtitle: string;
  /** Figures that stand out, by name. */
  readonly figures?: readonly (readonly [name: string, value: string])[];
  readonly sections: readonly Section[];
}

const style = `
:root{color-scheme:light dark;--paper:#f5f4f0;--card:#fffefb;--ink:#1d1e22;--soft:#6b6a66;--line:#e2dfd7}
@media (prefers-color-scheme:dark){:root{--paper:#16171a;--card:#1f2024;--ink:#ecebe6;--soft:#9b9a94;--line:#33343a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:28px 24px 48px;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{margin:0;font-size:24px;letter-spacing:-.01em;overflow-wrap:anywhere}
.subtitle{margin:4px 0 20px;color:var(--soft)}
h2{margin:30px 0 12px;font-size:16px}
h3{margin:0 0 6px;font-size:13px;font-weight:600}
.charts+h3{margin-top:22px}
.figures{display:flex;flex-wrap:wrap;gap:12px}
.figure,.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.figure b{display:block;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums}
.figure span{color:var(--soft);font-size:13px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:14px}
.card svg{display:block;width:100%;max-width:720px;height:auto}
.card img{display:block;max-width:100%;margin-top:10px;border-radius:6px}
code span{white-space:nowrap}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:5px 16px 5px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--soft);font-size:13px;font-weight:600;vertical-align:bottom}
.number{text-align:right}
td.number,.names td:first-child{white-space:nowrap}
th:last-child,td:last-child{padding-right:0}
tr:last-child td{border-bottom:0}
.settings{columns:2 340px;column-gap:32px}
.settings div{display:flex;justify-content:space-between;gap:16px;padding:3px 0;border-bottom:1px solid var(--line);break-inside:avoid}
.settings span{color:var(--soft);white-space:nowrap}
.settings b{font-weight:500;overflow-wrap:anywhere;text-align:right}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 8px;padding:0;list-style:none;font-size:13px}
.legend i{display:inline-block;width:10px;height:10px;margin-right:6px;border-radius:50%}
.gallery th{padding:4px 12px 4px 0;vertical-align:middle;max-width:150px}
.gallery tr:first-child th{vertical-align:bottom}
.gallery i{font-weight:400;font-size:12px}
.gallery td{padding:3px 10px 3px 0;border:0}
.card .gallery img{width:84px;max-width:none;margin:0;image-rendering:pixelated}
p.note{color:var(--soft);font-size:13px;max-width:80ch}
@media (max-width:520px){
body{padding:18px 10px 32px}
.card svg{font-size:16px!important}
.card,.figure{padding:10px 12px}
.scroll table{font-size:13px}
.scroll th{font-size:12px}
.scroll th,.scroll td{padding-right:9px}
.scroll td.number{white-space:normal}
.names td:first-child{white-space:normal}
.card .gallery img{width:60px}
}
`;

export const card = (body: string, title?: string): string =>
  `<div class="card">${title === undefined ? "" : `<h3>${escaped(title)}</h3>`}${body}</div>`;

/** A command line that is not broken within a flag. */
export const commandLine = (text: string): string =>
  `<code>${escaped(text).replace(/(?<=^| )--\S+/g, "<span>$&</span>")}</code>`;

/** Cards side by side where there is room. */
export const cards = (all: readonly string[]): string => `<div class="charts">${all.join("")}</div>`;

/** Names with their colours. */
export const swatches = (entries: readonly (readonly [name: string, colour: string])[]): string =>
  `<ul class="legend">${entries.map(([name, colour]) => `<li><i style="background:${colour}"></i>${escaped(name)}</li>`).join("")}</ul>`;

/** Names of series, in the order of their colours; empty for one. */
export const legend = (names: readonly string[]): string =>
  names.length < 2 ? "" : swatches(names.map((name, i) => [name, colours[i % colours.length]!]));

/** A cell's text, which may be broken after a slash between words. */
const broken = (cell: string): string => escaped(cell).replace(/(?<=[a-z])\/(?=[a-z])/g, "/<wbr>");

/** A table; columns whose cells all begin with a digit are set as numbers, but never the first, whose short names are not broken. */
export const table = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
  const numeric = head.map((_, i) => i > 0 && rows.every((row) => /^(\d|-|$)/.test(row[i] ?? "")));
  const names = rows.every(([name = ""]) => name.length <= 24) ? ' class="names"' : "";
  const line = (tag: string, cells: readonly string[]) =>
    `<tr>${cells.map((cell, i) => `<${tag}${numeric[i] ? ' class="number"' : ""}>${broken(cell)}</${tag}>`).join("")}</tr>`;
  return `<div class="card scroll"><table${names}>${line("th", head)}${rows.map((row) => line("td", row)).join("")}</table></div>`;
};

/** Names and values in columns. */
export const list = (entries: readonly (readonly [name: string, value: string])[]): string =>
  `<div class="card settings">${entries.map(([name, value]) => `<div><span>${escaped(name)}</span><b>${escaped(value)}</b></div>`).join("")}</div>`;

export const html = ({ title, subtitle, figures = [], sections }: Page): string => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escaped(title)}</title>
<style>${style}</style>
<h1>${escaped(title)}</h1>
<p class="subtitle">${escaped(subtitle)}</p>
<div class="figures">${figures.map(([name, value]) => `<div class="figure"><b>${escaped(value)}</b><span>${escaped(name)}</span></div>`).join("")}</div>
${sections.map(({ title: heading, body }) => `<h2>${escaped(heading)}</h2>\n${body}`).join("\n")}
</html>
`;
