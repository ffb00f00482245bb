/** What of a file is no part of the network that is imported, and why it may be left out. */
import type { Found } from "./find.ts";
import { isCopyName, isOfEncoder } from "./names.ts";

/** Tensors that were left out. */
export interface LeftOut {
  /** Why, to be put behind the names. */
  readonly rule: string;
  readonly names: readonly string[];
}

const word = (words: string): RegExp => new RegExp(`(^|[._])(${words})([._]|$)`, "i");

/** By the words in a name, the first that fits. */
const byWord: readonly { readonly rule: string; readonly words: RegExp }[] = [
  { rule: "stored features of a contrastive loss", words: word("queue|queue_\\w+|memory_?bank|bank|center") },
  { rule: "prototypes and predictors of pretraining", words: word("prototypes?|pred|predictor|prediction\\w*") },
  {
    rule: "projector of pretraining",
    words: word(
      "proj|projs|projector|projection|projections|proj_?head|projection_?head|head_?proj|mlp|contrast\\w*|simclr\\w*",
    ),
  },
  { rule: "another classifier", words: word("classifier|classifiers|linear_?head|probe|online_\\w+|head") },
  {
    rule: "state of losses and metrics",
    words: word("loss|losses|criterion|metrics?|\\w+_acc|accuracy|logit_scale|temperature"),
  },
];

/** What names are judged by. */
export interface Leftovers {
  readonly found: Found;
  /** Beginnings of names that the user leaves out. */
  readonly asked: readonly string[];
  /** Our name of a tensor in the network. */
  ours(name: string): string | undefined;
}

/** A second first stage that TRADES' WideResNet makes and doesn't use. */
const isUnusedStage = (here: string): boolean => /^sub_block1\./.test(here);

const ruleOf = (name: string, { found, asked, ours }: Leftovers): string | undefined => {
  const here = ours(name);
  // A part of the encoder that we don't know makes it another network.
  if (here !== undefined && isOfEncoder(here)) return undefined;
  const { place, copies, aliases } = found;
  if (asked.some((start) => name === start || name.startsWith(start))) return "as --leave-out asks";
  if (copies.some(({ prefix }) => prefix !== "" && name.startsWith(prefix))) return "of the copy that is not taken";
  if (aliases.some(({ prefix }) => prefix !== "" && name.startsWith(prefix))) return "the same network once more";
  if (here !== undefined && isUnusedStage(here)) return "a stage that TRADES' code holds and does not use";
  if (isCopyName(name.slice(name.startsWith(place.prefix) ? place.prefix.length : 0)))
    return "copies that follow by momentum";
  if (here !== undefined && /^fc\.[^.]+\./.test(here)) return "projector of pretraining, in the place of a classifier";
  if (here !== undefined && /^fc\./.test(here)) return "projection of pretraining, in the place of a classifier";
  return byWord.find(({ words }) => words.test(name))?.rule;
};

/** Names by the rule that leaves them out; what none does stands under undefined. */
export const leaveOut = (
  names: Iterable<string>,
  leftovers: Leftovers,
): { readonly leftOut: readonly LeftOut[]; readonly unknown: readonly string[] } => {
  const byRule = new Map<string, string[]>();
  const unknown: string[] = [];
  for (const name of names) {
    const rule = ruleOf(name, leftovers);
    if (rule === undefined) unknown.push(name);
    else byRule.set(rule, [...(byRule.get(rule) ?? []), name]);
  }
  return { leftOut: Array.from(byRule, ([rule, of]) => ({ rule, names: of })), unknown };
};
