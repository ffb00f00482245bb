/** What was noticed in a stage, as sentences. */
import { probabilitiesWarning } from "../models/probabilities.ts";

/**
 * Warnings of a stage over `count` images, from the images that were noticed by name: `random`, `probabilities`, `zero` and
 * `infinite` of a model, `outside` and `mistaken` of an attack.
 */
export const warningsOf = (stage: string, notes: Readonly<Record<string, number>>, count: number): string[] => {
  const { random = 0, probabilities = 0, zero = 0, infinite = 0, outside = 0, mistaken = 0 } = notes;
  const share = (n: number) => `${n} of ${count} images`;
  const warnings: string[] = [];
  if (random > 0)
    warnings.push(
      `the model's output is random (${share(random)} got other logits when asked again): attacks on it mean little without averaging`,
    );
  if (probabilities > 0 && probabilities === count) warnings.push(probabilitiesWarning);
  if (zero > 0) warnings.push(`${stage}: the gradient is zero for ${share(zero)}: it may be masked`);
  if (infinite > 0)
    warnings.push(
      `the model's ${stage === "clean" ? "logits" : "gradients"} are not finite for ${share(infinite)}: ${stage === "clean" ? "they count as wrong" : "what is not counts as 0, and attacks may miss"}`,
    );
  if (outside > 0) warnings.push(`${stage}: ${share(outside)} left the ball or the box and do not count as broken`);
  if (mistaken > 0) warnings.push(`${stage}: ${share(mistaken)} were called broken but are right when asked again`);
  return warnings;
};
