/** Oracles in threads of their own, and the attacks that run there. */
import { afterAll, describe, expect, test } from "@jest/globals";
import { relu, reshape } from "../../graphs/ops/index.ts";
import type { Classifier } from "../../graphs/steps/evaluate.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { RequestError } from "../../src/errors.ts";
import type { SingleAttack } from "../../src/evaluate/attack-list.ts";
import type { AttackedImage, Query } from "../../src/evaluate/attacks/attack.ts";
import { attackOf, type QueriedAttack } from "../../src/evaluate/attacks/attack-of.ts";
import { ball } from "../../src/evaluate/attacks/ball.ts";
import type { AttackWatch, Oracle } from "../../src/evaluate/attacks/oracle.ts";
import { parallelOracle } from "../../src/evaluate/attacks/parallel-oracle.ts";
import { openOracle, programsOf } from "../../src/evaluate/attacks/programs.ts";
import { openReplica, type Replica, sharedModels } from "../../src/evaluate/attacks/replica.ts";
import { dealOut, runAttacks } from "../../src/evaluate/attacks/runner.ts";
import type { AttackSettings } from "../../src/evaluate/types.ts";
import { predictionOf } from "../../src/models/prediction.ts";
import { convolutional, image, randomImages } from "./models.ts";

const open: Oracle[] = [];
afterAll(async () => {
  for (const oracle of open) await oracle.release();
});

const engine = await chooseEngine({ provider: "cpu", threads: 2 });
const settings: AttackSettings = {
  ...{ norm: "linf", eps: 0.03, stepSize: 0.01, restarts: 1, seed: 1 },
  ...{ iterations: 12, targets: 3, queries: 60 },
};
const around = ball(settings.norm, settings.eps);
const unwatched: AttackWatch = { passed: () => {}, signal: new AbortController().signal };

/** Two replicas of a classifier, and an oracle of this thread with the same batch. */
const opened = (classifier: Classifier) => {
  const outputsOf = programsOf({ classifier, image });
  let built = 0;
  const model = sharedModels((program) => {
    built++;
    return engine.evaluationModel(outputsOf(program));
  });
  const session = engine.evaluationOptions(2);
  const replicas = [0, 1].map(() => openReplica({ image, batch: 4, session, model })) as [Replica, Replica];
  const load = (outputs: Parameters<typeof engine.loadEvaluation>[0]) => engine.loadEvaluation(outputs, 2);
  const here = openOracle({ classifier, image, batch: 4, load });
  open.push(...replicas, here);
  return { replicas, here, built: () => built };
};

/** Images labelled with what the model says. */
const labelled = async (oracle: Oracle, images: readonly AttackedImage[]): Promise<AttackedImage[]> => {
  const answers = await oracle.answer(images.map(({ clean }) => ({ kind: "logits", x: clean })));
  return images.map((one, i) => ({ ...one, label: predictionOf(answers[i]!.logits) }));
};

const attacks: QueriedAttack[] = [
  { kind: "apgd", loss: "ce", name: "apgd-ce" },
  { kind: "apgd-t", name: "apgd-t" },
  { kind: "fab-t", name: "fab-t" },
  { kind: "square", name: "square" },
];

describe("replicas", () => {
  const { replicas, here, built } = opened(convolutional());

  test.each(attacks)("find by $name what attacks find that ask from here", async (attack) => {
    const images = await labelled(here, randomImages(9));
    const passes = [0, 0];
    const apart = await dealOut(images, parallelOracle(replicas, 8), (share, replica) =>
      (replica as Replica).attack(attack, share, settings, {
        ...unwatched,
        passed: (count, answered) => {
          passes[0] = passes[0]! + count;
          passes[1] = passes[1]! + answered;
        },
      }),
    );
    const one = images.map((of) => attackOf(attack, of, around, settings));
    // The same shares, so that batches are the same too.
    const there = await runAttacks(one, { ...here, replicas: [here, here] });
    expect(apart).toEqual(there);
    const queries = apart.reduce((sum, found) => sum + found.queries, 0);
    expect(passes[1]).toBeGreaterThanOrEqual(queries);
    expect(passes[0]).toBeGreaterThanOrEqual(passes[1]!);
  });

  test("answer as an oracle of this thread does, and keep what they answered before", async () => {
    const images = await labelled(here, randomImages(7, 5));
    for (const kind of ["logits", "ce", "dlr-targeted"] as const) {
      const ask = (of: readonly AttackedImage[]) =>
        of.map(({ clean: x, label }): Query => ({ kind, x, label, target: (label + 1) % 5 }));
      const first = await replicas[0].answer(ask(images));
      const kept = structuredClone(first);
      expect(first).toEqual(await here.answer(ask(images)));
      await replicas[0].answer(ask(randomImages(7, 6)));
      expect(first).toEqual(kept);
    }
    expect(await replicas[0].answer([])).toEqual([]);
    const clean = Float32Array.from(images.slice(0, 3).flatMap((one) => [...one.clean]));
    const pgd = { norm: "l2", eps: 0.5, steps: 3, stepSize: 0.2 } as const;
    expect(await replicas[1].pgd(pgd, clean, clean, [0, 1, 2])).toEqual(await here.pgd(pgd, clean, clean, [0, 1, 2]));
  });

  test("build a program that both run once", async () => {
    const before = built();
    const queries = randomImages(3).map(({ clean: x }): Query => ({ kind: "dlr", x, label: 0, target: 0 }));
    for (const replica of replicas) await replica.answer(queries, true);
    expect(built() - before).toBe(1);
  });

  test("end an attack when they are asked to", async () => {
    const images = await labelled(here, randomImages(4));
    const stopping = new AbortController();
    const long: AttackSettings = { ...settings, eps: 1e-6, queries: 1_000_000 };
    const square = attacks[3] as SingleAttack & QueriedAttack;
    const watch = { passed: () => stopping.abort(), signal: stopping.signal };
    await expect(replicas[0].attack(square, images, long, watch)).rejects.toMatchObject({ name: "AbortError" });
    await expect(replicas[0].attack(square, images, long, watch)).rejects.toMatchObject({ name: "AbortError" });
    // Long enough for it to look whether it is to end.
    let words = 0;
    const after = { ...unwatched, passed: () => words++ };
    expect(await replicas[0].attack(square, images, { ...long, queries: 6000 }, after)).toHaveLength(4);
    expect(words).toBeGreaterThan(1);
  });
});

test("a replica that is released ends its attack first", async () => {
  const [replica] = opened(convolutional()).replicas;
  const images = await labelled(replica, randomImages(4));
  const long: AttackSettings = { ...settings, eps: 1e-6, queries: 1_000_000 };
  const begun = new Promise<void>((passed) => {
    const attack = replica.attack(attacks[3]!, images, long, { ...unwatched, passed: () => passed() });
    attack.catch((error: unknown) => expect(error).toMatchObject({ name: "AbortError" }));
  });
  await begun;
  await replica.release();
  // It starts anew where it is asked again.
  expect(await labelled(replica, images)).toEqual(images);
});

describe("what goes wrong in a thread", () => {
  test("a loss that no plugin has is a wrong request", async () => {
    const [replica] = opened(convolutional()).replicas;
    const x = randomImages(1)[0]!.clean;
    const asked = replica.answer([{ kind: "own:mine", x, label: 0, target: 0 }]);
    await expect(asked).rejects.toThrow("an attack asks for the loss own:mine, which no plugin has");
    await expect(replica.answer([{ kind: "own:mine", x, label: 0, target: 0 }])).rejects.toThrow(RequestError);
    expect(await replica.answer([{ kind: "logits", x }])).toHaveLength(1);
  });

  test("what onnxruntime refuses says where it was made, once", async () => {
    const classifier: Classifier = (x) => relu(reshape(x, [x.dim(0), -1]));
    const outputsOf = programsOf({ classifier, image });
    const replica = openReplica({
      ...{ image, batch: 2, session: engine.evaluationOptions(2) },
      model: (program) => {
        const made = engine.evaluationModel(outputsOf(program));
        return { ...made, bytes: made.bytes.subarray(0, 20) };
      },
    });
    open.push(replica);
    const asked = replica.answer([{ kind: "logits", x: randomImages(1)[0]!.clean }]);
    await expect(asked).rejects.toThrow(/^onnxruntime: (?!onnxruntime)/);
  });
});
