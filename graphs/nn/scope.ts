/**
 * A scope carries what a layer needs beside its input: its path, the mode, the batch-norm branches, and where parameters
 * and state live. Layers are functions of scope and value; the same path means the same parameter.
 */
import type { DType } from "../onnx/dtype.ts";
import { GraphError } from "../onnx/error.ts";
import { input, named, type Type, type Value } from "../onnx/graph.ts";
import { add, loop, meansOverRanks, mul, type Ranks, stopGradient, wholeBatch } from "../ops/index.ts";
import { feedName, paramName, stateName } from "../steps/names.ts";

/** How a parameter or a state starts, as data: the driver draws the numbers. */
export type Init =
  | { readonly kind: "constant"; readonly value: number }
  | { readonly kind: "normal"; readonly std: number }
  | { readonly kind: "uniform"; readonly bound: number }
  /** As the parameter or state of that path starts: a copy of a network is the same network at first. */
  | { readonly kind: "copy"; readonly path: string; readonly of: Init };

export interface Slot {
  readonly path: string;
  readonly type: Type;
  readonly init: Init;
  /** The model's input. */
  readonly value: Value;
}

/** Statistics of one batch in one branch of a batch norm: mean and unbiased variance, each [C]. */
export interface BatchStatistics {
  /** Path of the branch: its running_mean and running_var lie under it. */
  readonly path: string;
  readonly mean: Value;
  readonly variance: Value;
  readonly momentum: number;
}

/** What happens to the statistics of a batch in training mode; references disagree on attacks, so callers say. */
export type StatisticsPolicy = "update" | "keep" | ((statistics: BatchStatistics) => void);

/** Parameters, state and inputs of one program, by path. State is a chain: an update is what later reads see. */
export class Store {
  readonly parameters = new Map<string, Slot>();
  readonly states = new Map<string, Slot>();
  readonly inputs = new Map<string, Value>();
  /** Processes that share the batch; left out where this one has all of it. */
  readonly ranks: Ranks | undefined;
  #current = new Map<string, Value>();

  constructor(ranks?: Ranks) {
    this.ranks = ranks;
  }

  /**
   * Rows of the batch as a loss sees them that sets images against each other: of all ranks where `negatives` says so. What is
   * computed from them has to be the same on every rank.
   */
  contrasted(rows: Value): Value {
    const { size, rank, negatives } = this.ranks ?? { size: 1, rank: 0, negatives: false };
    return negatives && size > 1 ? wholeBatch(rows, { ranks: size, rank }) : rows;
  }

  /** A mean over the batch, taken over all ranks where losses are; no gradient flows into it. */
  meanOfAll(mean: Value): Value {
    const still = stopGradient(mean);
    return this.ranks?.negatives ? meansOverRanks([still], this.ranks.size)[0]! : still;
  }

  parameter(path: string, shape: readonly number[], init: Init): Value {
    return this.#slot(this.parameters, paramName, path, { dtype: "float32", shape }, init).value;
  }

  state(path: string, type: Type, init: Init): Value {
    const slot = this.#slot(this.states, stateName, path, type, init);
    return this.#current.get(path) ?? slot.value;
  }

  update(path: string, value: Value): void {
    const slot = this.states.get(path);
    if (slot === undefined)
      throw new GraphError("parameter", `the state ${path} is updated before it is read`, { types: [value] });
    if (slot.type.shape.join() !== value.shape.join())
      throw new GraphError("parameter", `the state ${path} changes its shape`, { types: [slot.type, value] });
    this.#current.set(path, value);
  }

  /** The last value of a state. */
  latest(path: string): Value {
    return this.#current.get(path) ?? (this.states.get(path) as Slot).value;
  }

  input(name: string, type: Type): Value {
    const known = this.inputs.get(name);
    if (known !== undefined) return known;
    const made = input(feedName(name), type);
    this.inputs.set(name, made);
    return made;
  }

  /**
   * A Loop whose body may read and update state: what it updates is carried from one iteration to the next. The body is
   * traced twice, first only to see which state it updates.
   */
  loop(
    times: number,
    initial: readonly Value[],
    body: (iteration: Value, carried: readonly Value[]) => readonly Value[],
  ): readonly Value[] {
    if (times === 0) return initial;
    const before = new Map(this.#current);
    loop(times, initial, body);
    const paths = [...this.#current].filter(([path, value]) => before.get(path) !== value).map(([path]) => path);
    this.#current = new Map(before);
    const start = paths.map((path) => this.latest(path));
    const results = loop(times, [...initial, ...start], (iteration, carried) => {
      const outer = new Map(this.#current);
      paths.forEach((path, i) => {
        this.#current.set(path, carried[initial.length + i]!);
      });
      const returned = [
        ...body(iteration, carried.slice(0, initial.length)),
        ...paths.map((path) => this.latest(path)),
      ];
      this.#current = outer;
      return returned;
    });
    paths.forEach((path, i) => {
      this.#current.set(path, results[initial.length + i]!);
    });
    return results.slice(0, initial.length);
  }

  #slot(slots: Map<string, Slot>, nameOf: (path: string) => string, path: string, type: Type, init: Init): Slot {
    const known = slots.get(path);
    if (known !== undefined) {
      if (known.type.shape.join() !== type.shape.join())
        throw new GraphError("parameter", `${nameOf(path).replace(".", " ")} is used with two shapes`, {
          types: [known.type, type],
        });
      return known;
    }
    const made = { path, type, init, value: input(nameOf(path), type) };
    slots.set(path, made);
    return made;
  }
}

interface ScopeOptions {
  readonly path: string;
  readonly mode: "train" | "eval";
  /** The branch of each view of the interleaved batch: image b of view j is row b·nb + j. */
  readonly branches: readonly string[];
  readonly statistics: StatisticsPolicy;
  /**
   * Name of a copy of the network: its parameters are state under `<copy>.`, which no gradient moves (a moving average,
   * a teacher). "" is the network that is trained.
   */
  readonly copy: string;
}

export class Scope {
  readonly store: Store;
  readonly path: string;
  readonly mode: "train" | "eval";
  readonly branches: readonly string[];
  readonly statistics: StatisticsPolicy;
  readonly copy: string;

  constructor(store: Store, options: Partial<ScopeOptions> = {}) {
    this.store = store;
    this.path = options.path ?? "";
    this.mode = options.mode ?? "train";
    this.branches = options.branches ?? ["normal"];
    this.statistics = options.statistics ?? "update";
    this.copy = options.copy ?? "";
  }

  /** Where state of this path lies: with the copy's name before it. */
  get statePath(): string {
    return this.copy === "" ? this.path : `${this.copy}.${this.path}`;
  }

  /** The scope of a part: its path is this one's with `name` after it. */
  at(name: string | number): Scope {
    return new Scope(this.store, { ...this, path: this.path === "" ? `${name}` : `${this.path}.${name}` });
  }

  with(options: Partial<Omit<ScopeOptions, "path">>): Scope {
    return new Scope(this.store, { ...this, ...options });
  }

  parameter(name: string, shape: readonly number[], init: Init): Value {
    const { path, statePath } = this.at(name);
    if (this.copy === "") return this.store.parameter(path, shape, init);
    return this.store.state(statePath, { dtype: "float32", shape }, { kind: "copy", path, of: init });
  }

  state(name: string, shape: readonly number[], init: Init, dtype: DType = "float32"): Value {
    return this.store.state(this.at(name).statePath, { dtype, shape }, init);
  }

  /** Builds with nodes named after this path. */
  run<T>(build: () => T): T {
    return named(this.path, build);
  }
}

/** running ← (1 - m)·running + m·batch, for mean and variance. */
export const moveStatistics = (store: Store, { path, mean, variance, momentum }: BatchStatistics): void => {
  for (const [name, batch] of [
    ["running_mean", mean],
    ["running_var", variance],
  ] as const) {
    const at = `${path}.${name}`;
    const running = store.state(at, batch, { kind: "constant", value: name === "running_var" ? 1 : 0 });
    store.update(at, add(mul(running, 1 - momentum), mul(batch, momentum)));
  }
};

/**
 * What `repeats` passes over the same batches do to running statistics, in closed form: with n batches in turn and
 * momentum m, batch i of pass k keeps the weight m·(1-m)^(n·repeats - 1 - k·n - i).
 */
export const moveStatisticsRepeatedly = (store: Store, all: readonly BatchStatistics[], repeats: number): void => {
  for (const [path, batches] of grouped(all)) {
    const n = batches.length;
    const m = (batches[0] as BatchStatistics).momentum;
    const weights = batches.map((_, i) => {
      let weight = 0;
      for (let k = 0; k < repeats; k++) weight += m * (1 - m) ** (n * repeats - 1 - k * n - i);
      return weight;
    });
    for (const [name, key] of [
      ["running_mean", "mean"],
      ["running_var", "variance"],
    ] as const) {
      const at = `${path}.${name}`;
      const first = (batches[0] as BatchStatistics)[key];
      const running = store.state(at, first, { kind: "constant", value: key === "variance" ? 1 : 0 });
      const moved = batches.reduce(
        (value, batch, i) => add(value, mul(batch[key], weights[i]!)),
        mul(running, (1 - m) ** (n * repeats)),
      );
      store.update(at, moved);
    }
  }
};

const grouped = (all: readonly BatchStatistics[]): Map<string, BatchStatistics[]> => {
  const groups = new Map<string, BatchStatistics[]>();
  for (const one of all) groups.set(one.path, [...(groups.get(one.path) ?? []), one]);
  return groups;
};
