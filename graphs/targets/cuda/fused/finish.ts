/**
 * What a step does at its end, to many small tensors alike, in few launches: the optimizer's step over all parameters, and
 * running statistics, which are linear combinations of what batches gave. A launch passes at most 4 KB of addresses.
 */
import { constantOf, type Value } from "../../../onnx/graph.ts";
import { add, definitions, div, mul, type OpDefinition, reshape, sub } from "../../../ops/index.ts";
import { numberOf, operands } from "../../operands.ts";
import { combineKernel } from "../kernels/combine.ts";
import { sgdKernel } from "../kernels/sgd.ts";

type Outputs = Readonly<Record<string, Value>>;

/** Addresses of one launch: 8 bytes each, of 4096. */
const MOST_ADDRESSES = 500;

interface Update {
  readonly weight: Value;
  readonly gradient: Value;
  readonly momentum: Value;
  readonly next: Value;
  readonly lr: Value;
  readonly rates: { readonly momentum: number; readonly decay: number };
}

/** The step that graphs/optim/sgd.ts writes: w - lr · (momentum·m + (g + decay·w)). */
const updateOf = (result: Value): Update | undefined => {
  const [weight, scaled] = operands(result, sub);
  const [next, lr] = operands(scaled, mul);
  const [kept, decayed] = operands(next, add);
  const [momentum, rate] = operands(kept, mul);
  const [own, penalty] = operands(decayed, add);
  const [same, decay] = operands(penalty, mul);
  const known = numberOf(rate);
  if (!weight || !next || !lr || !momentum || !decayed || known === undefined) return undefined;
  if (lr.size !== 1 || constantOf(lr) || weight.dtype !== "float32" || momentum.size !== weight.size) return undefined;
  const penalised = own !== undefined && same === weight && numberOf(decay) !== undefined;
  const gradient = penalised ? own : decayed;
  const rates = { momentum: known, decay: penalised ? (numberOf(decay) as number) : 0 };
  return gradient.shape.join() === weight.shape.join() ? { weight, gradient, momentum, next, lr, rates } : undefined;
};

/** Lists cut so that each part needs at most so many addresses. */
const cut = <T>(all: readonly T[], addresses: (part: T) => number, most = MOST_ADDRESSES): T[][] => {
  const parts: T[][] = [];
  let used = most + 1;
  for (const one of all) {
    used += addresses(one);
    if (used > most) {
      parts.push([]);
      used = addresses(one) + 1;
    }
    parts.at(-1)?.push(one);
  }
  return parts;
};

const updates = (outputs: Outputs): Record<string, Value> => {
  const groups = new Map<string, { name: string; update: Update }[]>();
  for (const [name, value] of Object.entries(outputs)) {
    const update = updateOf(value);
    if (update === undefined) continue;
    const { rates, lr } = update;
    const alike = [...groups].find(
      ([, [first]]) => first?.update.lr === lr && JSON.stringify(first.update.rates) === JSON.stringify(rates),
    );
    const key = alike?.[0] ?? name;
    groups.set(key, [...(groups.get(key) ?? []), { name, update }]);
  }
  const made: Record<string, Value> = {};
  for (const group of groups.values())
    for (const part of cut(group, () => 5)) {
      const { lr, rates } = (part[0] as (typeof part)[number]).update;
      const of = (key: "weight" | "gradient" | "momentum") => part.map(({ update }) => update[key]);
      const list = [lr, ...of("weight"), ...of("gradient"), ...of("momentum")];
      const results = sgdKernel.outputs(...([...list, rates] as never)) as readonly Value[];
      part.forEach(({ name, update }, i) => {
        made[name] = results[i]!;
        // The momentum is an output too, under the name that its state has.
        for (const [other, value] of Object.entries(outputs))
          if (value === update.next) made[other] = results[part.length + i]!;
      });
    }
  return made;
};

interface Term {
  readonly from: Value;
  readonly offset: number;
  readonly factor: number;
}

const splitDefinition = definitions.get("Split") as OpDefinition;

/** Elements [offset, offset + length) of a value as a sum of elements of others; at least of its own. */
const termsOf = (value: Value, offset: number, length: number, factor: number): readonly Term[] => {
  const { inputs, definition } = value.node;
  const [a, b] = inputs as [Value, Value];
  const leaf: readonly Term[] = [{ from: value, offset, factor }];
  if (value.dtype !== "float32" || inputs.length === 0) return leaf;
  const through = (x: Value, times = 1, at = offset) => termsOf(x, at, length, factor * times);
  const same = inputs.every(({ size }) => size === value.size);
  if (definition === add.definition && same) return [...through(a), ...through(b)];
  if (definition === sub.definition && same) return [...through(a), ...through(b, -1)];
  if (definition === reshape.definition) return through(a);
  if (definition === mul.definition && a.size === value.size && numberOf(b) !== undefined)
    return through(a, numberOf(b) as number);
  if (definition === div.definition && a.size === value.size && numberOf(b) !== undefined)
    return through(a, 1 / (numberOf(b) as number));
  if (definition === splitDefinition && value.rank > 0 && a.shape.slice(1).join() === value.shape.slice(1).join()) {
    const before = value.node.outputs.slice(0, value.index).reduce((sum, { size }) => sum + size, 0);
    return through(a, 1, offset + before);
  }
  return leaf;
};

/** Terms of the same elements, added up. */
const collected = (terms: readonly Term[]): readonly Term[] => {
  const found = new Map<Value, Map<number, number>>();
  for (const { from, offset, factor } of terms) {
    const at = found.get(from) ?? new Map<number, number>();
    at.set(offset, (at.get(offset) ?? 0) + factor);
    found.set(from, at);
  }
  return [...found].flatMap(([from, at]) => [...at].map(([offset, factor]) => ({ from, offset, factor })));
};

/** Vectors that this may not pay for: a large one is read and written by ops of its own as fast. */
const LONGEST = 4096;

const combinations = (outputs: Outputs): Record<string, Value> => {
  const vectors = Object.entries(outputs).flatMap(([name, value]) => {
    if (!name.startsWith("next.state.") || value.rank !== 1 || value.size > LONGEST) return [];
    const terms = collected(termsOf(value, 0, value.size, 1));
    return terms.length > 1 ? [{ name, length: value.size, terms }] : [];
  });
  const made: Record<string, Value> = {};
  for (const part of cut(vectors, ({ terms }) => terms.length + 1)) {
    const inputs = [...new Set(part.flatMap(({ terms }) => terms.map(({ from }) => from)))];
    const all = part.flatMap(({ terms }, output) => terms.map((term) => ({ output, ...term })));
    const results = combineKernel.outputs(
      ...([
        ...inputs,
        {
          lengths: part.map(({ length }) => length),
          outputs: all.map(({ output }) => output),
          inputs: all.map(({ from }) => inputs.indexOf(from)),
          offsets: all.map(({ offset }) => offset),
          factors: all.map(({ factor }) => factor),
        },
      ] as never),
    ) as readonly Value[];
    part.forEach(({ name }, i) => {
      made[name] = results[i]!;
    });
  }
  return made;
};

/** A step's outputs with its ends together. What else reads an updated parameter (a moving average) has it by the ops of before. */
export const finish = <K extends string>(outputs: Readonly<Record<K, Value>>): Record<K, Value> => {
  const updated = updates(outputs);
  const others = Object.fromEntries(Object.entries<Value>(outputs).filter(([name]) => !(name in updated)));
  return { ...outputs, ...updated, ...combinations(others) };
};
