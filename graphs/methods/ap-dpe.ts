import { type AttackOptions, pgd } from "../attacks/pgd.ts";
import { crossEntropy } from "../losses/cross-entropy.ts";
import { transformerLayer } from "../nn/attention.ts";
import { interleave } from "../nn/interleave.ts";
import { type Layer, linear } from "../nn/layer.ts";
import { Scope, type Store } from "../nn/scope.ts";
import type { Value } from "../onnx/graph.ts";
import { add, concat, expandAs, gather, matMul, matrixTranspose, mul, reshape, slice } from "../ops/index.ts";
import { finish } from "../steps/step.ts";
import {
  cropTo,
  integers,
  jigsaw,
  maskings,
  ninthOrders,
  quarterOrders,
  reordered,
  rotations,
  selfieGrid,
  tiles,
} from "../views/puzzles.ts";
import { uniformStart, weakView } from "../views/recipe.ts";
import { advclTraining, attackedParts, defineMethod, paperAttack } from "./method.ts";

export const apDpeTasks = ["rotation", "jigsaw", "jigsaw3", "selfie"] as const;
export type ApDpeTask = (typeof apDpeTasks)[number];

/** Options that are its own. */
export interface ApDpeOptions extends AttackOptions {
  readonly tasks: readonly ApDpeTask[];
}

/** Layers of Selfie's attention pooling; AP-DPE's code has thirteen, three times the weights of a ResNet-18. */
const LAYERS = 3;
const HEADS = 8;

/**
 * Selfie's head (Trinh et al. 2019). Patches of an image come with the masked ones first: h [16B,D]. Attention over the
 * others pools them to u; u and the place of a masked patch, as learned row and column, ask for the features of the patch
 * that belongs there, among all masked ones of the image. Logits [4B,4], dot products over √D as in attention: without
 * that, wide features start from certainty.
 */
const selfieLogits =
  (places: Value): Layer =>
  (scope, h) => {
    const { side, masked } = selfieGrid;
    const [count, d] = [side ** 2, h.dim(1)];
    const b = h.dim(0) / count;
    const patches = reshape(h, [b, count, d]);
    const hidden = slice(patches, [{ axis: 1, start: 0, end: masked }]);
    const shown = slice(patches, [{ axis: 1, start: masked, end: count }]);
    const token = scope.parameter("u0", [1, 1, d], { kind: "constant", value: 0 });
    let x = concat([expandAs(token, [b, 1, d]), shown], { axis: 1 });
    for (let i = 0; i < LAYERS; i++) x = transformerLayer({ heads: HEADS, hidden: 2 * d })(scope.at("layers").at(i), x);
    const pooled = slice(x, [{ axis: 1, start: 0, end: 1 }]);
    const rows = scope.parameter("row_embeddings", [side, d], { kind: "normal", std: 1 });
    const columns = scope.parameter("column_embeddings", [side, d], { kind: "constant", value: 0 });
    const grid = reshape(add(reshape(rows, [side, 1, d]), reshape(columns, [1, side, d])), [count, d]);
    const asked = add(pooled, gather(grid, places));
    return reshape(mul(matMul(asked, matrixTranspose(hidden)), 1 / Math.sqrt(d)), [masked * b, masked]);
  };

/** A task of a batch: images, how their attack starts, their labels, and the head that gives their logits. */
interface Task {
  readonly x: Value;
  readonly start: Value;
  readonly labels: Value;
  readonly head: Layer;
}

/** How each task is made of the clean images of a batch. */
const tasksOf = (
  store: Store,
  image: (name: string) => Value,
  clean: Value,
): Readonly<Record<ApDpeTask, () => Task>> => {
  const batch = clean.dim(0);
  const choice = (name: string) => store.input(name, { dtype: "int32", shape: [batch] });
  const shuffled = (name: string, n: number, labels: Value, orders: readonly (readonly number[])[]): Task => ({
    x: jigsaw(cropTo(clean, n), n, labels, orders),
    start: cropTo(image(`start_${name}`), n),
    labels,
    head: linear({ features: orders.length }),
  });
  return {
    rotation: () => ({
      x: rotations(clean),
      start: interleave([0, 1, 2, 3].map((turn) => image(`start_turn${turn}`))),
      labels: integers(Array.from({ length: 4 * batch }, (_, i) => i % 4)),
      head: linear({ features: 4 }),
    }),
    jigsaw: () => shuffled("jigsaw", 2, choice("order"), quarterOrders),
    jigsaw3: () => shuffled("jigsaw3", 3, choice("order3"), ninthOrders),
    selfie: () => {
      const { side, masked } = selfieGrid;
      const chosen = choice("masked");
      const places = maskings.flatMap((order) => order.slice(0, masked));
      return {
        x: reordered(tiles(cropTo(clean, side), side), chosen, maskings),
        start: tiles(cropTo(image("start_selfie"), side), side),
        labels: integers(Array.from({ length: masked * batch }, (_, i) => i % masked)),
        head: selfieLogits(gather(integers(places, [maskings.length, masked]), chosen)),
      };
    },
  };
};

export const apDpe = defineMethod<ApDpeOptions>({
  name: "ap-dpe",
  title: "adversarial pretraining of AP-DPE (Chen et al. 2020)",
  branches: undefined,
  evaluatedBranch: "normal",
  own: { ...paperAttack, tasks: ["rotation", "jigsaw", "selfie"] },
  training: {
    ...advclTraining,
    epochs: 150,
    batch: 128,
    lr: 0.1,
    weightDecay: 5e-4,
    schedule: "cosine",
    warmupEpochs: 0,
  },
  inputs: ({ eps, tasks }) => ({
    clean: weakView,
    ...(tasks.includes("rotation") &&
      Object.fromEntries([0, 1, 2, 3].map((turn) => [`start_turn${turn}`, uniformStart(eps)]))),
    ...(tasks.includes("jigsaw") && {
      start_jigsaw: uniformStart(eps),
      order: { kind: "random", below: quarterOrders.length },
    }),
    ...(tasks.includes("jigsaw3") && {
      start_jigsaw3: uniformStart(eps),
      order3: { kind: "random", below: ninthOrders.length },
    }),
    ...(tasks.includes("selfie") && {
      start_selfie: uniformStart(eps),
      masked: { kind: "random", below: maskings.length },
    }),
  }),
  build: (options) => {
    const { store, encoder, image, attack } = attackedParts(options);
    const posed = tasksOf(store, image, image("clean"));
    const trace: Record<string, Value> = {};
    const losses = options.tasks.map((task) => {
      const { x, start, labels, head } = posed[task]();
      const loss = (scope: Scope, at: Value) => crossEntropy(head(scope.at(`fc_${task}`), encoder(scope, at)), labels);
      const adversarial = pgd(attack, (at) => loss(new Scope(store, { mode: "eval" }), at))(x, add(x, start));
      trace[`attack.${task}`] = adversarial;
      return loss(new Scope(store), adversarial);
    });
    const mean = mul(
      losses.reduce((a, b) => add(a, b)),
      1 / losses.length,
    );
    const each = Object.fromEntries(options.tasks.map((task, i) => [task, losses[i]!]));
    return finish(store, options, { loss: mean, ...each }, trace);
  },
});
