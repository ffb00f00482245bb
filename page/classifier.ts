/** The classifier: features, heads on them, attacks, training of a head. */
import type { PageDescription } from "../src/serve/page-description.ts";
import type { Engine, Program, Tensor } from "./engine.ts";

/** A linear layer on the features. Rows beyond `classes` never win. */
export interface Head {
  readonly weight: Float32Array;
  readonly bias: Float32Array;
  readonly classes: readonly string[];
}

/** Planar pixels [3,S,S] in [0, 1]. */
export type Picture = Float32Array;

export interface AttackSettings {
  readonly eps: number;
  readonly steps: number;
  readonly label: number;
  /** Towards the label instead of away from it. */
  readonly towards: boolean;
}

export interface AttackProgress {
  readonly step: number;
  readonly picture: Picture;
  /** Of the picture before this step. */
  readonly probabilities: readonly number[];
}

export interface Example {
  readonly features: Float32Array;
  readonly label: number;
}

const softmax = (logits: readonly number[]): number[] => {
  const top = Math.max(...logits);
  const powers = logits.map((v) => Math.exp(v - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((p) => p / sum);
};

const scalar = (value: number): Tensor => ({ dims: [], data: Float32Array.of(value) });

export class Classifier {
  readonly about: PageDescription;
  private readonly program: Program;
  private readonly attackProgram: Program;
  private readonly headProgram: Program;

  private constructor(about: PageDescription, programs: readonly [Program, Program, Program]) {
    this.about = about;
    [this.program, this.attackProgram, this.headProgram] = programs;
  }

  static async load(engine: Engine, about: PageDescription, features: Program): Promise<Classifier> {
    const attack = await engine.load("attack.onnx");
    const head = await engine.load("head.onnx");
    return new Classifier(about, [features, attack, head]);
  }

  private get dims(): readonly number[] {
    return [1, 3, this.about.size, this.about.size];
  }

  async features(picture: Picture): Promise<Float32Array> {
    const { features } = await this.program.run({ x: { dims: this.dims, data: picture } });
    return Float32Array.from((features as { data: Float32Array }).data);
  }

  /** Probability of each class of a head. */
  judge(features: Float32Array, { weight, bias, classes }: Head): number[] {
    const d = features.length;
    return softmax(
      classes.map((_, c) => {
        let sum = bias[c]!;
        for (let i = 0; i < d; i++) sum += weight[c * d + i]! * features[i]!;
        return sum;
      }),
    );
  }

  /** PGD from a random start in the ball, step by step; each step is 2.5·ε/steps long, at most ε. */
  async *attack(clean: Picture, head: Head, settings: AttackSettings): AsyncGenerator<AttackProgress> {
    const { eps, steps, label, towards } = settings;
    const length = Math.min(eps, (2.5 * eps) / steps);
    let x: Picture = clean.map((v) => Math.max(0, Math.min(1, v + (2 * Math.random() - 1) * eps)));
    const fixed = {
      clean: { dims: this.dims, data: clean },
      label: { dims: [1], data: Int32Array.of(label) },
      eps: scalar(eps),
      step_size: scalar(towards ? -length : length),
      weight: { dims: [this.about.slots, this.about.features], data: head.weight },
      bias: { dims: [this.about.slots], data: head.bias },
    };
    for (let step = 1; step <= steps; step++) {
      const results = await this.attackProgram.run({ x: { dims: this.dims, data: x }, ...fixed });
      x = Float32Array.from((results.next as { data: Float32Array }).data);
      const probabilities = Array.from((results.probabilities as { data: Float32Array }).data);
      yield { step, picture: x, probabilities: probabilities.slice(0, head.classes.length) };
    }
  }

  /** Trains a head on examples by gradient descent with momentum. Features are centred and scaled for it. */
  async *train(
    examples: readonly Example[],
    classes: readonly string[],
    steps: number,
  ): AsyncGenerator<{ step: number; loss: number; head: Head }> {
    const { slots, features: d, examples: rows, unusedBias } = this.about;
    const used = examples.slice(-rows);
    const mean = Float32Array.from({ length: d }, (_, i) =>
      used.reduce((sum, { features: f }) => sum + f[i]! / used.length, 0),
    );
    const lengths = used.map(({ features: f }) => Math.hypot(...f.map((v, i) => v - mean[i]!)));
    const scale = used.length / lengths.reduce((sum, length) => sum + length, 1e-12);
    const features = new Float32Array(rows * d);
    const label = new Int32Array(rows);
    const share = new Float32Array(rows);
    used.forEach((example, i) => {
      features.set(
        example.features.map((v, k) => (v - mean[k]!) * scale),
        i * d,
      );
      label[i] = example.label;
      share[i] = 1 / used.length;
    });
    const zero = (size: number, dims: readonly number[]): Tensor => ({ dims, data: new Float32Array(size) });
    const untrained = Float32Array.from({ length: slots }, (_, c) => (c < classes.length ? 0 : unusedBias));
    let held: Record<string, Tensor> = {
      "param.weight": zero(slots * d, [slots, d]),
      "param.bias": { dims: [slots], data: untrained },
      "state.momentum.weight": zero(slots * d, [slots, d]),
      "state.momentum.bias": zero(slots, [slots]),
    };
    const fixed = {
      "input.features": { dims: [rows, d], data: features },
      "input.label": { dims: [rows], data: label },
      "input.share": { dims: [rows], data: share },
      "input.lr": scalar(2),
    };
    for (let step = 1; step <= steps; step++) {
      const results = await this.headProgram.run({ ...fixed, ...held });
      held = Object.fromEntries(
        Object.keys(held).map((name) => {
          const { dims, data } = results[`next.${name}`]!;
          return [name, { dims, data: Float32Array.from(data as Float32Array) }];
        }),
      );
      const weight = (held["param.weight"]!.data as Float32Array).map((v) => v * scale);
      // weight·(f - mean)·scale + bias, with the mean in the bias.
      const bias = (held["param.bias"]!.data as Float32Array).map((b, c) =>
        mean.reduce((sum, m, i) => sum - m * weight[c * d + i]!, b),
      );
      yield { step, loss: (results.loss as { data: Float32Array }).data[0]!, head: { weight, bias, classes } };
    }
  }
}
