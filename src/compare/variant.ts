/** What is compared: a method, with settings of it that differ from its paper's. */
import { methods, type NamedMethod } from "../../graphs/methods/index.ts";
import { RequestError } from "../errors.ts";
import { camelCase, kebabCase } from "../settings/name.ts";
import { type GivenSettings, nearestName, unknownSetting } from "../settings/resolve.ts";
import { isList } from "../settings/schema.ts";
import { feedOf } from "../train/feeds.ts";
import { pretrain } from "../train/pretrain.ts";

export interface Variant {
  /** As it is asked for: `advcl/no-high-frequency`. */
  readonly name: string;
  readonly method: string;
  readonly definition: NamedMethod;
  /** Settings of pretrain by key, as texts; false, or an empty list, for `no-`. */
  readonly settings: Readonly<Record<string, unknown>>;
}

/** AdvCL without each of its parts, and with other radii and sets of K (its sections 5.3 and appendix). */
export const ablations: string[] = [
  "advcl",
  "advcl/no-high-frequency",
  "advcl/no-clusters",
  "advcl/no-high-frequency/no-clusters",
  "advcl/radius=4",
  "advcl/radius=16",
  "advcl/clusters=10",
  "advcl/clusters=2+10+50",
];

/** Reads `setting=value`, `setting` or `no-setting`; elements of lists are joined by +. */
const parseChange = (text: string, change: string): readonly [string, unknown] => {
  const [name = "", value] = change.split("=");
  if (!/^[a-z][a-z-]*$/.test(name))
    throw new RequestError(`methods ${text}: write a change as /setting=value or /no-setting, not ${change}`);
  const { rows, name: command } = pretrain.spec;
  const known = (key: string): string => {
    if (Object.hasOwn(rows, key)) return key;
    const where = `advcl ${command} has no setting --${name}`;
    throw unknownSetting(command, Object.keys(rows).map(kebabCase), name, where, "--");
  };
  if (value !== undefined) return [known(camelCase(name)), value.replaceAll("+", ",")];
  const negated = name.startsWith("no-");
  const key = known(camelCase(negated ? name.slice(3) : name));
  const row = rows[key];
  return [key, negated ? (row !== undefined && isList(row) ? [] : false) : true];
};

/**
 * Reads `method/setting=value/no-setting`.
 * @param table methods by name (default: those that ship)
 * @throws RequestError where there is no such method
 */
export const parseVariant = (text: string, table: Readonly<Record<string, NamedMethod>> = methods): Variant => {
  const [method = "", ...changes] = text.split("/").map((part) => part.trim());
  const definition = Object.hasOwn(table, method) ? table[method] : undefined;
  if (definition === undefined) {
    const names = Object.keys(table);
    const nearest = nearestName(method, names);
    throw new RequestError(
      `methods ${text}: there is no method ${JSON.stringify(method)}; ${nearest ? `did you mean ${nearest}?` : `choose among ${names.join(", ")}`}`,
    );
  }
  return {
    name: text,
    method,
    definition,
    settings: Object.fromEntries(changes.map((change) => parseChange(text, change))),
  };
};

/** A variant's settings as a source, named in messages as its flags are. */
export const sourceOf = (settings: Variant["settings"]): GivenSettings =>
  new Map(Object.entries(settings).map(([key, value]) => [key, { value, label: `--${kebabCase(key)}` }]));

/** Whether a variant trains clustering heads. */
export const wantsClusters = ({ definition, settings }: Variant): boolean =>
  feedOf(definition).paper.clusters?.length !== 0 &&
  !(Array.isArray(settings.clusters) && settings.clusters.length === 0);
