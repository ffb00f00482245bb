/** Attacks by their names' kinds, as generators of queries. */
import type { SingleAttack } from "../attack-list.ts";
import type { AttackSettings } from "../types.ts";
import { apgd, apgdTargeted } from "./apgd.ts";
import type { Attack, AttackedImage } from "./attack.ts";
import type { Ball } from "./ball.ts";
import { fabTargeted } from "./fab.ts";
import { squareAttack } from "./square.ts";

/** An attack of ours that asks query by query: plain data, which other threads understand. */
export type QueriedAttack = Exclude<SingleAttack, { kind: "pgd" | "fgsm" | "own" }>;

/** The attack on one image. */
export const attackOf = (
  attack: QueriedAttack,
  image: AttackedImage,
  around: Ball,
  settings: AttackSettings,
): Attack => {
  const { seed, restarts, iterations, targets, queries } = settings;
  switch (attack.kind) {
    case "apgd":
      return apgd(image, around, attack.loss, { seed, restarts, iterations });
    case "apgd-t":
      return apgdTargeted(image, around, { seed, restarts, iterations, targets });
    case "fab-t":
      return fabTargeted(image, around, { seed, restarts, iterations, targets });
    case "square":
      return squareAttack(image, around, { seed, restarts, queries });
  }
};
