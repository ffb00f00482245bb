/**
 * How often rounding alone takes the golden step with 5 attack steps beyond its tolerances: the portable step on the CPU with
 * every number that it is given changed by a relative error of normal distribution, trial after trial.
 *
 *   node dist/scripts/parity/golden-rounding.js [--sizes 1e-8,6e-8,3e-7,1e-6] [--trials 12] [--threads 1]
 *
 * A float32 keeps 6e-8. Prints each trial's figures and how many of its size are beyond a tolerance of direct convolutions;
 * the last line is one JSON object of those numbers.
 */
import { compile } from "../../graphs/steps/step.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { random } from "../../src/data/random.ts";
import { createSession } from "../../src/engine/session.ts";
import { readFlags } from "../flags.ts";
import { beyond, goldenErrors, goldenStep, medianGradient, tolerances } from "./golden.ts";

const { values: flags } = readFlags(import.meta.url, {
  options: {
    sizes: { type: "string", default: "1e-8,6e-8,3e-7,1e-6" },
    trials: { type: "string", default: "12" },
    threads: { type: "string", default: "1" },
  },
});
const trials = Number(flags.trials);
const { step, feeds } = await goldenStep(5);
const session = await createSession(compile(step, portable), { threads: Number(flags.threads) });
const counts: Record<string, number> = {};
for (const size of flags.sizes.split(",")) {
  counts[size] = 0;
  for (let trial = 0; trial < trials; trial++) {
    const numbers = random(0, 0, trial, `rounding.${size}`);
    const changed = Object.entries(feeds).map(([name, value]) => {
      if (value.dtype !== "float32" || name === "input.lr") return [name, value] as const;
      const data = (value.data as Float32Array).map((v) => v * (1 + Number(size) * numbers.normal()));
      return [name, { ...value, data }] as const;
    });
    const errors = await goldenErrors(5, await session.run(Object.fromEntries(changed)));
    const worst = (group: string) =>
      Math.max(...errors.filter((e) => e.group === group).map((e) => e.error)).toExponential(1);
    const wrong = beyond(errors, tolerances.direct).length;
    if (wrong > 0) counts[size] += 1;
    console.log(
      `${size}: losses ${worst("value")}, first attack gradient ${worst("firstGradient")}, unequal pixels ${worst("image5")}, ` +
        `gradients ${medianGradient(errors).toExponential(1)} and ${worst("gradient")}, parameters ${worst("after")}: ${wrong} beyond`,
    );
  }
  console.log(`${size}: ${counts[size]} of ${trials} trials are beyond a tolerance`);
}
await session.release();
console.log(JSON.stringify({ trials, beyond: counts }));
