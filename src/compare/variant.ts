/** What is compared: a method, with settings of it that differ from its paper's. */
import { type MethodName, methodNames } from "../../graphs/methods/index.ts";
import { RequestError } from "../errors.ts";
import { nearestName } from "../settings/resolve.ts";
import { feeds } from "../train/feeds.ts";

export interface Variant {
  /** As it is asked for: `advcl/no-high-frequency`. */
  readonly name: string;
  readonly method: MethodName;
  /** Flags of pretrain, in order. */
  readonly flags: readonly string[];
}

/** AdvCL without each of its parts, and with other radii and sets of K (its sections 5.3 and appendix). */
export const ablations: readonly string[] = [
  "advcl",
  "advcl/no-high-frequency",
  "advcl/no-clusters",
  "advcl/no-high-frequency/no-clusters",
  "advcl/radius=4",
  "advcl/radius=16",
  "advcl/clusters=10",
  "advcl/clusters=2+10+50",
];

/**
 * Reads `method/setting=value/no-setting`; elements of lists are joined by +.
 * @throws RequestError where there is no such method
 */
export const parseVariant = (text: string): Variant => {
  const [method = "", ...changes] = text.split("/").map((part) => part.trim());
  const known = methodNames.find((name) => name === method);
  if (known === undefined) {
    const nearest = nearestName(method, methodNames);
    throw new RequestError(
      `methods ${text}: there is no method ${JSON.stringify(method)}; ${nearest ? `did you mean ${nearest}?` : `choose among ${methodNames.join(", ")}`}`,
    );
  }
  const flags = changes.flatMap((change) => {
    const [name = "", value] = change.split("=");
    if (!/^[a-z][a-z-]*$/.test(name))
      throw new RequestError(`methods ${text}: write a change as /setting=value or /no-setting, not ${change}`);
    return value === undefined ? [`--${name}`] : [`--${name}`, value.replaceAll("+", ",")];
  });
  return { name: text, method: known, flags };
};

/** Whether a variant trains clustering heads, and by which flag they are named. */
export const wantsClusters = ({ method, flags }: Variant): boolean =>
  feeds[method].paper.clusters?.length !== 0 && !flags.includes("--no-clusters");

/** A variant's name as a folder's. */
export const slug = (name: string): string => name.replaceAll("/", "_").replaceAll("=", "-");
