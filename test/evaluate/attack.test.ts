/** Attacks on small models: what holds for every attack, and where the optimum is known. */

import { afterAll, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { Norm } from "../../graphs/attacks/threat-model.ts";
import { constantOf } from "../../graphs/onnx/graph.ts";
import { random } from "../../src/data/random.ts";
import { apgd, apgdTargeted } from "../../src/evaluate/attacks/apgd.ts";
import type { Attack, AttackedImage } from "../../src/evaluate/attacks/attack.ts";
import { type Ball, ball } from "../../src/evaluate/attacks/ball.ts";
import { fabTargeted, planeProjection } from "../../src/evaluate/attacks/fab.ts";
import type { Oracle } from "../../src/evaluate/attacks/oracle.ts";
import { parallelOracle } from "../../src/evaluate/attacks/parallel-oracle.ts";
import { openOracle } from "../../src/evaluate/attacks/programs.ts";
import { runAttacks } from "../../src/evaluate/attacks/runner.ts";
import { squareAttack } from "../../src/evaluate/attacks/square.ts";
import { predictionOf } from "../../src/models/prediction.ts";
import { convolutional, image, linearModel, portably, randomImages } from "./models.ts";

const open: Oracle[] = [];
const asking = (classifier: Parameters<typeof openOracle>[0]["classifier"], batch = 8): Oracle => {
  const made = openOracle({ classifier, image, batch, load: portably });
  open.push(made);
  return made;
};
afterAll(async () => {
  for (const oracle of open) await oracle.release();
});

/** Images labelled with what the model says. */
const labelled = async (oracle: Oracle, images: readonly AttackedImage[]): Promise<AttackedImage[]> => {
  const answers = await oracle.answer(images.map(({ clean }) => ({ kind: "logits", x: clean })));
  return images.map((one, i) => ({ ...one, label: predictionOf(answers[i]!.logits) }));
};

const attacks: Record<string, (image: AttackedImage, ball: Ball) => Attack> = {
  "apgd-ce": (i, b) => apgd(i, b, "ce", { iterations: 30, seed: 1 }),
  "apgd-dlr": (i, b) => apgd(i, b, "dlr", { iterations: 30, seed: 1 }),
  "apgd-t": (i, b) => apgdTargeted(i, b, { iterations: 20, targets: 4, seed: 1 }),
  "fab-t": (i, b) => fabTargeted(i, b, { iterations: 20, targets: 4, seed: 1 }),
  square: (i, b) => squareAttack(i, b, { queries: 300, seed: 1 }),
};
const budgets: Record<Norm, number> = { linf: 0.012, l2: 0.08 };

describe.each(Object.keys(attacks))("%s", (name) => {
  const attack = attacks[name]!;
  test.each(["linf", "l2"] as const)(
    "stays in the ball and the box, breaks what it says it breaks (%s)",
    async (norm) => {
      const oracle = asking(convolutional());
      const images = await labelled(oracle, randomImages(12));
      const around = ball(norm, budgets[norm]);
      const results = await runAttacks(
        images.map((i) => attack(i, around)),
        oracle,
      );
      const after = await oracle.answer(results.map(({ x }) => ({ kind: "logits", x })));
      results.forEach((result, i) => {
        expect(around.distance(result.x, images[i]!.clean)).toBeLessThanOrEqual(budgets[norm] * (1 + 1e-5));
        expect(Math.min(...result.x)).toBeGreaterThanOrEqual(0);
        expect(Math.max(...result.x)).toBeLessThanOrEqual(1);
        expect(predictionOf(after[i]!.logits)).toBe(result.prediction);
        expect(result.broken).toBe(result.prediction !== images[i]!.label);
      });
      const broken = results.filter((r) => r.broken).length;
      expect(broken).toBeGreaterThan(1);
      expect(broken).toBeLessThan(12);
    },
  );

  test("an image's result does not depend on its company, nor on the batch size", async () => {
    const classifier = convolutional();
    const images = await labelled(asking(classifier), randomImages(6));
    const around = ball("linf", budgets.linf);
    const together = await runAttacks(
      images.map((i) => attack(i, around)),
      asking(classifier, 4),
    );
    // In a batch of 1 there is room for no attempt before its turn, in one of 16 for all of them.
    for (const batch of [1, 16]) {
      const oracle = asking(classifier, batch);
      for (const [i, one] of images.entries())
        expect(await runAttacks([attack(one, around)], oracle)).toEqual([together[i]]);
    }
    const replicas = parallelOracle([asking(classifier, 4), asking(classifier, 4)], 7);
    expect(
      await runAttacks(
        images.map((i) => attack(i, around)),
        replicas,
      ),
    ).toEqual(together);
  });

  test("eps 0 breaks nothing", async () => {
    const oracle = asking(convolutional());
    const images = await labelled(oracle, randomImages(4));
    const results = await runAttacks(
      images.map((i) => attack(i, ball("linf", 0))),
      oracle,
    );
    expect(results.every((r) => !r.broken)).toBe(true);
  });
});

test("Square asks ahead where there is room: fewer runs of the model, the same image", async () => {
  const classifier = convolutional();
  const [one] = await labelled(asking(classifier), randomImages(1));
  const attacked = async (batch: number) => {
    const oracle = asking(classifier, batch);
    let runs = 0;
    const counted: Oracle = {
      ...oracle,
      answer: (...asked) => {
        runs++;
        return oracle.answer(...asked);
      },
      replicas: [],
    };
    // Too small a ball to be broken in.
    const attempt = squareAttack(one!, ball("linf", 1e-4), { queries: 200, seed: 1 });
    const [result] = await runAttacks([attempt], { ...counted, replicas: [counted] });
    return { runs, result };
  };
  const [alone, roomy] = [await attacked(1), await attacked(8)];
  expect(roomy.result).toEqual(alone.result);
  expect(alone.runs).toBe(201);
  expect(roomy.runs).toBeLessThan(150);
});

test("replicas share what few images ask, rather than that one waits for the other", async () => {
  const classifier = convolutional();
  const [one] = await labelled(asking(classifier), randomImages(1));
  const attempt = () => apgdTargeted(one!, ball("linf", 1e-4), { iterations: 20, targets: 4, seed: 1 });
  const answered = [0, 0];
  const replicas = answered.map((_, k): Oracle => {
    const oracle = asking(classifier, 4);
    const counted: Oracle = {
      ...oracle,
      answer: (queries, ...more) => {
        answered[k]! += queries.length;
        return oracle.answer(queries, ...more);
      },
      replicas: [],
    };
    return { ...counted, replicas: [counted] };
  });
  const results = await runAttacks([attempt()], parallelOracle(replicas, 8));
  expect(results).toEqual(await runAttacks([attempt()], asking(classifier, 4)));
  expect(Math.min(...answered)).toBeGreaterThan(0.4 * (answered[0]! + answered[1]!));
});

describe("a linear model, whose robustness is known", () => {
  // Class t overtakes y within eps exactly where z_t - z_y + eps·‖w_t - w_y‖₁ > 0, away from the box.
  const { classifier, matrix } = linearModel();
  const w = constantOf(matrix)!.data as Float32Array;
  const pixels = w.length / 5;
  const inner = randomImages(24).map((one) => ({ ...one, clean: one.clean.map((v) => 0.3 + 0.4 * v) }));
  const eps = 0.02;
  const truth = async (oracle: Oracle): Promise<{ images: AttackedImage[]; breakable: boolean[]; slack: number[] }> => {
    const images = await labelled(oracle, inner);
    const answers = await oracle.answer(images.map(({ clean }) => ({ kind: "logits", x: clean })));
    const slack = images.map(({ label }, i) => {
      let best = Number.NEGATIVE_INFINITY;
      for (let t = 0; t < 5; t++) {
        if (t === label) continue;
        let reach = 0;
        for (let k = 0; k < pixels; k++) reach += Math.abs(w[t * pixels + k]! - w[label * pixels + k]!);
        best = Math.max(best, answers[i]!.logits[t]! - answers[i]!.logits[label]! + eps * reach);
      }
      return best;
    });
    return { images, slack, breakable: slack.map((s) => s > 0) };
  };
  test.each(["apgd-t", "fab-t", "apgd-ce", "apgd-dlr"])(
    "%s finds adversarial images where there are any",
    async (name) => {
      const oracle = asking(classifier);
      const { images, breakable, slack } = await truth(oracle);
      const results = await runAttacks(
        images.map((i) => attacks[name]!(i, ball("linf", eps))),
        oracle,
      );
      // At a slack of almost nothing float32 decides.
      const clear = slack.map((s) => Math.abs(s) > 0.005);
      const broken = results.map((r) => r.broken).filter((_, i) => clear[i]);
      const possible = breakable.filter((_, i) => clear[i]);
      // One target at a time finds them all; an untargeted loss may follow a class that it cannot reach.
      if (name.endsWith("-t")) expect(broken).toEqual(possible);
      else expect(broken.filter((b, i) => b && !possible[i])).toEqual([]);
      expect(breakable.filter(Boolean).length).toBeGreaterThan(3);
      expect(breakable.filter(Boolean).length).toBeLessThan(21);
    },
  );
});

describe("the ball", () => {
  const vector = fc.array(fc.float({ min: -2, max: 3, noNaN: true }), { minLength: 12, maxLength: 12 });
  const pixels = fc.array(fc.float({ min: 0, max: 1, noNaN: true }), { minLength: 12, maxLength: 12 });
  test.each(["linf", "l2"] as const)("projection is inside and changes nothing the second time (%s)", (norm) => {
    fc.assert(
      fc.property(vector, pixels, fc.float({ min: 0, max: 2, noNaN: true }), (far, center, eps) => {
        const around = ball(norm, eps);
        const clean = Float32Array.from(center);
        const once = around.project(Float32Array.from(far), clean);
        expect(around.distance(once, clean)).toBeLessThanOrEqual(eps + 1e-6);
        const twice = around.project(Float32Array.from(once), clean);
        twice.forEach((v, i) => {
          expect(Math.abs(v - once[i]!)).toBeLessThanOrEqual(1e-6);
        });
      }),
      { seed: 4 },
    );
  });
  test("starts lie inside", () => {
    for (const norm of ["linf", "l2"] as const)
      for (let i = 0; i < 20; i++) {
        const [{ clean }] = randomImages(1, i) as [AttackedImage];
        const around = ball(norm, 0.3);
        expect(around.distance(around.startInside(clean, random(1, 0, i, "a")), clean)).toBeLessThanOrEqual(0.3 + 1e-6);
        expect(around.distance(around.startOnSurface(clean, random(1, 0, i, "b")), clean)).toBeLessThanOrEqual(
          0.3 + 1e-6,
        );
      }
  });
});

describe("projection onto a plane within the box", () => {
  const unit = fc.double({ min: 0, max: 1, noNaN: true });
  const slope = fc.double({ min: -2, max: 2, noNaN: true });
  test.each(["linf", "l2"] as const)(
    "reaches the plane, stays in the box, and no random feasible point is nearer (%s)",
    (norm) => {
      fc.assert(
        fc.property(
          fc.array(fc.tuple(unit, slope, unit), { minLength: 4, maxLength: 4 }),
          fc.array(fc.array(unit, { minLength: 4, maxLength: 4 }), { minLength: 20, maxLength: 20 }),
          (rows, others) => {
            const [x, w, y] = [0, 1, 2].map((k) => Float32Array.from(rows, (r) => r[k]!)) as [
              Float32Array,
              Float32Array,
              Float32Array,
            ];
            // The plane goes through y, which is in the box.
            const b = y.reduce((s, v, i) => s + v * w[i]!, 0);
            const d = planeProjection(x, w, b, norm);
            const length = (v: Float32Array) => ball(norm, 1).distance(v, new Float32Array(4));
            const at = x.map((v, i) => v + d[i]!);
            expect(Math.abs(at.reduce((s, v, i) => s + v * w[i]!, 0) - b)).toBeLessThan(1e-5);
            at.forEach((v) => {
              expect(v).toBeGreaterThanOrEqual(-1e-6);
              expect(v).toBeLessThanOrEqual(1 + 1e-6);
            });
            for (const other of [y, ...others.map((o) => Float32Array.from(o))]) {
              // Where the segment from x to another point of the box crosses the plane.
              const side = (v: Float32Array) => v.reduce((s, value, i) => s + value * w[i]!, 0) - b;
              const [here, there] = [side(x), side(other)];
              if (here * there > 0 || here === there) continue;
              const t = here / (here - there);
              const crossing = x.map((v, i) => t * (other[i]! - v));
              expect(length(d)).toBeLessThanOrEqual(length(crossing) + 1e-5);
            }
          },
        ),
        { seed: 6, numRuns: 300 },
      );
    },
  );
});

test("replicas answer as one model does", async () => {
  const [one, two] = [
    asking(convolutional(), 5),
    parallelOracle([asking(convolutional(), 3), asking(convolutional(), 3)], 5),
  ];
  const images = await labelled(one, randomImages(5));
  const asked = images.map(({ clean: x, label }) => ({ kind: "ce", x, label, target: label }) as const);
  expect(await two.answer(asked)).toEqual(await one.answer(asked));
  expect(await two.answer(asked.slice(0, 1), true)).toEqual(await one.answer(asked.slice(0, 1)));
  const clean = Float32Array.from(images.flatMap(({ clean }) => [...clean]));
  const labels = images.map(({ label }) => label);
  const options = { norm: "linf", eps: 0.04, steps: 3, stepSize: 0.01 } as const;
  expect(await two.pgd(options, clean, clean, labels)).toEqual(await one.pgd(options, clean, clean, labels));
});

test("PGD: more steps never help the defender, and images stay in the ball", async () => {
  const oracle = asking(convolutional());
  const images = await labelled(oracle, randomImages(8));
  const clean = Float32Array.from(images.flatMap(({ clean }) => [...clean]));
  const pixels = clean.length / 8;
  const right: number[] = [];
  for (const steps of [0, 1, 5, 20]) {
    const run = await oracle.pgd(
      { norm: "linf", eps: 0.04, steps, stepSize: 0.01 },
      clean,
      clean,
      images.map((i) => i.label),
    );
    right.push(images.filter(({ label }, i) => predictionOf(run.logits.subarray(i * 5, i * 5 + 5)) === label).length);
    run.x.forEach((v, i) => {
      expect(Math.abs(v - clean[i]!)).toBeLessThanOrEqual(0.04 + 1e-6);
    });
    expect(run.x).toHaveLength(8 * pixels);
  }
  expect(right[0]).toBe(8);
  expect(right[1]!).toBeLessThanOrEqual(right[0]!);
  expect(right[3]!).toBeLessThanOrEqual(right[1]!);
  expect(right[3]!).toBeLessThan(8);
});
