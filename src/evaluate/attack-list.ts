/** The attacks of an evaluation by the names that users give them. */
import { RequestError } from "../errors.ts";
import { nearestName } from "../settings/resolve.ts";
import type { UntargetedLoss } from "./attacks/apgd.ts";
import type { OwnAttack } from "./attacks/attack.ts";
import type { AttackSettings } from "./types.ts";

/** An attack on the images of a chunk. `name` is as users write it. */
export type SingleAttack = { readonly name: string } & (
  | { readonly kind: "fgsm" }
  | { readonly kind: "pgd"; readonly steps: number }
  | { readonly kind: "apgd"; readonly loss: UntargetedLoss }
  | { readonly kind: "apgd-t" }
  | { readonly kind: "fab-t" }
  | { readonly kind: "square" }
  | { readonly kind: "own"; readonly own: OwnAttack }
);

/** What an evaluation measures: accuracy on clean images, under an attack, or under AutoAttack's parts in turn. */
export type AttackSpec =
  | SingleAttack
  | { readonly kind: "clean"; readonly name: "clean" }
  | { readonly kind: "autoattack"; readonly name: "autoattack"; readonly parts: readonly SingleAttack[] };

const apgdCe = { kind: "apgd", loss: "ce", name: "apgd-ce" } as const;
const apgdT = { kind: "apgd-t", name: "apgd-t" } as const;
const fabT = { kind: "fab-t", name: "fab-t" } as const;
const square = { kind: "square", name: "square" } as const;

/** All but `pgdN`. AutoAttack is its `standard` (Croce & Hein 2020): each part runs on what the parts before it left. */
const named: readonly AttackSpec[] = [
  { kind: "clean", name: "clean" },
  { kind: "fgsm", name: "fgsm" },
  apgdCe,
  { kind: "apgd", loss: "dlr", name: "apgd-dlr" },
  apgdT,
  fabT,
  square,
  { kind: "autoattack", name: "autoattack", parts: [apgdCe, apgdT, fabT, square] },
];
const names = named.map(({ name }) => name);

/** Attacks that plugins bring, and losses by whose names there is an `apgd-NAME`. */
export interface OwnAttacks {
  readonly attacks: readonly OwnAttack[];
  readonly losses: Readonly<Record<string, unknown>>;
}

/** Whether an attack of ours has the name, or may have it. */
export const isAttackName = (name: string): boolean =>
  names.includes(name) || name === "corruptions" || /^(pgd\d|apgd-)/.test(name);

const ownSpecs = ({ attacks, losses }: OwnAttacks): AttackSpec[] => [
  ...attacks.map((own): AttackSpec => ({ kind: "own", name: own.name, own })),
  ...Object.keys(losses).map((loss): AttackSpec => ({ kind: "apgd", loss: `own:${loss}`, name: `apgd-${loss}` })),
];

const parseAttack = (text: string, own: readonly AttackSpec[]): AttackSpec => {
  const known = [...named, ...own].find(({ name }) => name === text);
  if (known !== undefined) return known;
  const names = [...named, ...own].map(({ name }) => name);
  const [, steps] = /^pgd([1-9]\d{0,4})$/.exec(text) ?? [];
  if (steps !== undefined) return { kind: "pgd", steps: Number(steps), name: text };
  const nearest = nearestName(text, [...names, "pgd20"]);
  const remedy = nearest === undefined ? "" : `; did you mean ${nearest}?`;
  throw new RequestError(
    `--attacks names ${JSON.stringify(text)}; there are ${names.join(", ")} and pgdN (pgd20)${remedy}`,
  );
};

/** Reads a list of attacks, each once. Throws a RequestError that lists what there is. */
export const parseAttacks = (list: readonly string[], own: OwnAttacks = { attacks: [], losses: {} }): AttackSpec[] => {
  const specs = ownSpecs(own);
  return [...new Set(list)].map((text) => parseAttack(text, specs));
};

/** Classes that an attack needs: its loss compares that many logits. */
const fewestClasses = (attack: AttackSpec): number => {
  switch (attack.kind) {
    case "apgd":
      return attack.loss === "dlr" ? 3 : 2;
    case "apgd-t":
    case "autoattack":
      return 4;
    case "own":
      return attack.own.classes ?? 2;
    default:
      return 2;
  }
};

/** Names of the attacks that can be run on a model of so many classes. */
const possible = (classes: number): string =>
  [...named.filter((attack) => classes >= fewestClasses(attack)).map(({ name }) => name), "pgd20"].join(",");

/** Throws a RequestError where an attack cannot be run on a model of so many classes. */
export const checkClasses = (attacks: readonly AttackSpec[], classes: number): void => {
  for (const attack of attacks)
    if (classes < fewestClasses(attack))
      throw new RequestError(
        `${attack.name} needs ${fewestClasses(attack)} classes (its loss compares that many logits), the model has ${classes}; give --attacks ${possible(classes)}`,
      );
};

/** Whether an attack follows gradients; AutoAttack does in three of its four parts. */
export const followsGradients = (attack: AttackSpec): boolean =>
  attack.kind === "own" ? (attack.own.gradients ?? true) : attack.kind !== "clean" && attack.kind !== "square";

/** Passes of an attack that does not say how many it makes: a guess at the time left, no more. */
const UNKNOWN_PASSES = 200;

/** Passes through the model that an attack makes for an image at most; one with a gradient counts as two. */
const passesOf = (attack: SingleAttack, settings: AttackSettings): number => {
  const { restarts, iterations, targets, queries } = settings;
  switch (attack.kind) {
    case "fgsm":
      return 3;
    case "pgd":
      return (2 * attack.steps + 1) * restarts;
    case "apgd":
      return 2 * (iterations + 1) * restarts;
    case "apgd-t":
      return 2 * (iterations + 1) * restarts * targets;
    case "fab-t":
      return 3 * iterations * restarts * targets;
    case "square":
      return (queries + 1) * restarts;
    case "own":
      return attack.own.passes?.(settings) ?? UNKNOWN_PASSES;
  }
};

/** A stage of an evaluation: its name in the log, and the passes that an image costs at most. */
export interface PlannedStage {
  readonly name: string;
  readonly passes: number;
}

/** The stage's name of a part of AutoAttack. */
export const partStage = ({ name }: SingleAttack): string => `autoattack/${name}`;

/** Stages in their order: clean images, signs of a model that attacks cannot judge, then each attack. */
export const planStages = (attacks: readonly AttackSpec[], settings: AttackSettings): PlannedStage[] => {
  const stages = attacks.flatMap((attack): PlannedStage[] => {
    if (attack.kind === "clean") return [];
    if (attack.kind !== "autoattack") return [{ name: attack.name, passes: passesOf(attack, settings) }];
    return attack.parts.map((part) => ({ name: partStage(part), passes: passesOf(part, settings) }));
  });
  const inspection = stages.length > 0 ? [{ name: "inspection", passes: 4 }] : [];
  return [{ name: "clean", passes: 1 }, ...inspection, ...stages];
};
