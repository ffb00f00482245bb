/** Conditions on what a verb measured, for machines that watch it: `knnAccuracy>0.3`, `loss<0.9*first`. */
import { RequestError } from "../errors.ts";
import { camelCase } from "../settings/name.ts";
import { nearestName, parseNumber } from "../settings/resolve.ts";

/** Exit code of a command whose work is done and whose conditions do not hold. */
export const conditionExitCode = 3;

/** What is known of a figure: its last value, and where it was followed over time its first and its best one. */
export interface Figure {
  readonly last: number;
  readonly first?: number | undefined;
  readonly best?: number | undefined;
}

export type Figures = Readonly<Record<string, Figure>>;

type Which = "first" | "best" | "last";

/** A figure, or a value of the figure that a condition is about (`name` left out). */
interface Reference {
  readonly name: string | undefined;
  readonly which: Which;
}

type Operator = keyof typeof operators;

/** A condition as it was read. */
export interface Condition {
  /** As it was written. */
  readonly text: string;
  /** The flag that gave it: what must hold, or must not. */
  readonly flag: "require" | "fail-if";
  readonly left: Reference & { readonly name: string };
  readonly operator: Operator;
  /** A number, or a factor of a figure. */
  readonly right: number | (Reference & { readonly factor: number });
}

/** How a condition came out. */
export interface Verdict {
  readonly condition: string;
  readonly flag: Condition["flag"];
  /** What stands on either side of the comparison. */
  readonly left: number;
  readonly right: number;
  /** Whether all is well: a requirement holds, a ground to fail does not. */
  readonly met: boolean;
}

/** A result that says how its conditions came out; none where none were given. */
export interface Judged {
  readonly conditions?: readonly Verdict[];
}

const operators = {
  "<=": (a: number, b: number) => a <= b,
  ">=": (a: number, b: number) => a >= b,
  "==": (a: number, b: number) => a === b,
  "!=": (a: number, b: number) => a !== b,
  "<": (a: number, b: number) => a < b,
  ">": (a: number, b: number) => a > b,
};

/** Accuracies are better when they rise, every other figure when it falls. */
export const risesToBetter = (name: string): boolean => /accuracy|validation/i.test(name);

const whiches: readonly string[] = ["first", "best", "last"] satisfies Which[];

/** `loss`, `loss.best`, or `first` alone, which is of the figure on the left. */
const parseReference = (text: string): Reference | undefined => {
  if (whiches.includes(text)) return { name: undefined, which: text as Which };
  const [, name, which = "last"] = /^([A-Za-z][\w/@-]*)(?:\.(first|best|last))?$/.exec(text) ?? [];
  return name === undefined ? undefined : { name, which: which as Which };
};

/** `0.3`, `30%`, `8/255`. */
const parseValue = (text: string): number | undefined => {
  const percent = text.endsWith("%");
  const value = parseNumber(percent ? text.slice(0, -1) : text);
  return value === undefined || !percent ? value : value / 100;
};

const parseRight = (text: string): Condition["right"] | undefined => {
  const value = parseValue(text);
  if (value !== undefined) return value;
  const [factorText, name] = text.includes("*") ? text.split("*").map((part) => part.trim()) : ["1", text];
  const factor = parseValue(factorText ?? "");
  const reference = parseReference(name ?? "");
  return factor === undefined || reference === undefined ? undefined : { ...reference, factor };
};

const parseCondition = (flag: Condition["flag"], text: string): Condition => {
  const [, before = "", operator = "", after = ""] = /^([^<>=!]+)(<=|>=|==|!=|<|>)([^<>=!]+)$/.exec(text) ?? [];
  const left = parseReference(before.trim());
  const right = parseRight(after.trim());
  if (left?.name === undefined || right === undefined)
    throw new RequestError(
      `--${flag} ${JSON.stringify(text)} is no condition; write a figure, a comparison and a number or another figure, as in "knnAccuracy>0.3", "loss.best<0.9*first" or "robustAccuracy>=0.5*accuracy"`,
    );
  return { text, flag, left: { ...left, name: left.name }, operator: operator as Operator, right };
};

/**
 * Reads the conditions of --require and --fail-if.
 *
 * @throws RequestError where one can't be read
 */
export const parseConditions = (settings: {
  readonly require: readonly string[];
  readonly failIf: readonly string[];
}): readonly Condition[] => [
  ...settings.require.map((text) => parseCondition("require", text)),
  ...settings.failIf.map((text) => parseCondition("fail-if", text)),
];

const referencesOf = ({ left, right }: Condition): readonly Reference[] =>
  typeof right === "number" ? [left] : [left, right];

const nameOf = (names: readonly string[], written: string): string | undefined =>
  names.find((name) => name === written) ?? names.find((name) => name === camelCase(written));

/** What can be asked of a verb's figures. */
export interface FigureNames {
  /** Those that are followed over time, and have a first and a best value. */
  readonly followed?: readonly string[];
  /** Those that are measured at the end alone. */
  readonly final?: readonly string[];
}

/**
 * Refuses conditions on what a verb will not measure, before it works for hours.
 *
 * @throws RequestError naming what there is
 */
export const checkConditions = (conditions: readonly Condition[], { followed = [], final = [] }: FigureNames): void => {
  const names = [...followed, ...final];
  for (const condition of conditions)
    for (const { name = condition.left.name, which } of referencesOf(condition)) {
      const start = `--${condition.flag} ${JSON.stringify(condition.text)}: `;
      const known = nameOf(names, name);
      if (known === undefined) {
        const nearest = nearestName(name, names);
        const remedy = nearest === undefined ? "" : `; did you mean ${nearest}?`;
        throw new RequestError(`${start}there is no figure ${name} here, but ${names.join(", ")}${remedy}`);
      }
      if (which !== "last" && !followed.includes(known))
        throw new RequestError(`${start}${known} is measured once and has no ${which} value; compare it with a number`);
    }
};

const lookUp = (figures: Figures, { text, flag, left }: Condition, { name = left.name, which }: Reference): number => {
  const known = nameOf(Object.keys(figures), name);
  const value = known === undefined ? undefined : figures[known]?.[which];
  if (value === undefined)
    throw new RequestError(
      `--${flag} ${JSON.stringify(text)}: ${name} has no ${which} value; there are ${Object.keys(figures).join(", ")}`,
    );
  return value;
};

/**
 * How conditions come out on what was measured.
 *
 * @throws RequestError where a condition asks for a value that was not measured
 */
export const judge = (conditions: readonly Condition[], figures: Figures): readonly Verdict[] =>
  conditions.map((condition) => {
    const { text, flag, operator } = condition;
    const left = lookUp(figures, condition, condition.left);
    const right =
      typeof condition.right === "number"
        ? condition.right
        : condition.right.factor * lookUp(figures, condition, condition.right);
    return { condition: text, flag, left, right, met: operators[operator](left, right) === (flag === "require") };
  });

/** What goes into a result: how its conditions came out, where there were any. */
export const judged = (conditions: readonly Condition[], figures: Figures): Judged =>
  conditions.length === 0 ? {} : { conditions: judge(conditions, figures) };

/** Figures of which only the last value is known. */
export const lastFigures = (values: Readonly<Record<string, number | undefined>>): Figures =>
  Object.fromEntries(Object.entries(values).flatMap(([name, last]) => (last === undefined ? [] : [[name, { last }]])));

const short = (value: number): string => String(Number(value.toPrecision(4)));

/** Conditions of a result that do not hold, as sentences. */
export const unmet = (result: object): readonly string[] =>
  ((result as Judged).conditions ?? [])
    .filter(({ met }) => !met)
    .map(
      ({ condition, flag, left, right }) =>
        `--${flag} ${JSON.stringify(condition)} ${flag === "require" ? "does not hold" : "holds"}: ${short(left)} against ${short(right)}`,
    );
