import { pgd } from "../attacks/pgd.ts";
import { crossEntropy } from "../losses/cross-entropy.ts";
import { interleave } from "../nn/interleave.ts";
import { linear } from "../nn/layer.ts";
import { Scope } from "../nn/scope.ts";
import { constant, type Value } from "../onnx/graph.ts";
import { tensor } from "../onnx/tensor.ts";
import { add, gather, mul, reshape, transpose } from "../ops/index.ts";
import { finish } from "../steps/step.ts";
import { begin, type Method, type MethodOptions } from "./method.ts";

export const apDpeTasks = ["rotation", "jigsaw"] as const;

export interface ApDpeOptions extends MethodOptions {
  readonly tasks: readonly (typeof apDpeTasks)[number][];
}

const integers = (values: readonly number[], shape: readonly number[] = [values.length]): Value =>
  constant(tensor("int64", shape, BigInt64Array.from(values, BigInt)));

const flipped = (x: Value, axis: number): Value =>
  gather(x, integers(Array.from({ length: x.dim(axis) }, (_, i) => x.dim(axis) - 1 - i)), { axis });

/** Each image turned by 0, 90, 180 and 270 degrees against the clock: [B,C,S,S] to [4B,C,S,S], turns of an image together. */
export const rotations = (x: Value): Value => {
  const across = transpose(x, { perm: [0, 1, 3, 2] });
  return interleave([x, flipped(across, 2), flipped(flipped(x, 2), 3), flipped(across, 3)]);
};

/** The orders of the four quarters, by label: those of a list, first to last. */
export const quarterOrders: readonly (readonly number[])[] = [0, 1, 2, 3].flatMap((a) =>
  [0, 1, 2, 3]
    .filter((b) => b !== a)
    .flatMap((b) => [0, 1, 2, 3].filter((c) => c !== a && c !== b).map((c) => [a, b, c, 6 - a - b - c])),
);

/** Quarters of each image in the order that its label names: place q shows quarter order[q]. Labels int64 [B]. */
export const jigsaw = (x: Value, labels: Value): Value => {
  const [b = 0, c = 0, s = 0] = x.shape;
  const half = s / 2;
  const quarters = reshape(transpose(reshape(x, [b, c, 2, half, 2, half]), { perm: [0, 2, 4, 1, 3, 5] }), [
    4 * b,
    c,
    half,
    half,
  ]);
  const orders = gather(integers(quarterOrders.flat(), [quarterOrders.length, 4]), labels);
  const first = integers(
    Array.from({ length: b }, (_, i) => 4 * i),
    [b, 1],
  );
  const moved = gather(quarters, reshape(add(orders, first), [4 * b]));
  return reshape(transpose(reshape(moved, [b, 2, 2, c, half, half]), { perm: [0, 3, 1, 4, 2, 5] }), [b, c, s, s]);
};

/**
 * Adversarial pretraining by self-supervised tasks (Chen et al., CVPR 2020): how far an image was turned, and how its
 * quarters were shuffled; cross-entropy on images attacked to raise it (evaluation mode), the mean over the tasks.
 * Inputs `clean`; for rotation `start_rotation` [4B,3,S,S]; for jigsaw `start_jigsaw` and `order` int64 [B], 0 to 23.
 */
export const apDpe: Method<ApDpeOptions> = {
  name: "ap-dpe",
  title: "adversarial pretraining of AP-DPE (Chen et al. 2020)",
  branches: undefined,
  evaluatedBranch: "normal",
  build: (options) => {
    const { store, encoder, image, attack } = begin(options);
    const { batch, size } = options;
    const clean = image("clean");
    const trace: Record<string, Value> = {};
    const posed = {
      rotation: () => {
        const starts = [0, 1, 2, 3].map((turn) => image(`start_turn${turn}`));
        const labels = integers(Array.from({ length: 4 * batch }, (_, i) => i % 4));
        return { x: rotations(clean), start: interleave(starts), labels, classes: 4 };
      },
      jigsaw: () => {
        const labels = store.input("order", { dtype: "int64", shape: [batch] });
        return { x: jigsaw(clean, labels), start: image("start_jigsaw"), labels, classes: quarterOrders.length };
      },
    };
    if (size % 2 !== 0 && options.tasks.includes("jigsaw"))
      throw new RangeError(`images of ${size} pixels have no halves`);
    const losses = options.tasks.map((task) => {
      const { x, start, labels, classes } = posed[task]();
      const loss = (scope: Scope, at: Value) =>
        crossEntropy(linear({ features: classes })(scope.at(`fc_${task}`), encoder(scope, at)), labels);
      const adversarial = pgd(attack, (at) => loss(new Scope(store, { mode: "eval" }), at))(x, add(x, start));
      trace[`attack.${task}`] = adversarial;
      return loss(new Scope(store), adversarial);
    });
    const mean = mul(
      losses.reduce((a, b) => add(a, b)),
      1 / losses.length,
    );
    const each = Object.fromEntries(options.tasks.map((task, i) => [task, losses[i] as Value]));
    return finish(store, options, { loss: mean, ...each }, trace);
  },
};
