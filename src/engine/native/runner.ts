/** A runner whose parameters and state stay where they are: bound once, in two sets that take turns. */
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import type { Model } from "../../../graphs/onnx/write.ts";
import { type BoundProgram, bindProgram, FED_BACK, type Held, type SetIndex } from "./bound-program.ts";
import { type OrPlain, orWithoutGraph } from "./capture.ts";
import type { Memory, Place } from "./memory.ts";
import type { NativeSession } from "./session.ts";

type Inputs = Readonly<Record<string, Tensor>>;

/** What a loaded program is. */
export interface Loaded {
  readonly model: Model;
  readonly session: NativeSession;
  /** Loads it once more to run without a CUDA graph, where it cannot be captured as one. */
  readonly withoutGraph?: () => Promise<Loaded>;
}

export interface BoundState {
  /** Runs a program on inputs; what it gives that is not fed back. */
  run(loaded: Loaded, inputs: Inputs): Promise<Record<string, Tensor>>;
  /** Has inputs brought to the device while the next run computes, for the run after it. */
  stage(loaded: Loaded, inputs: Inputs): void;
  accept(): void;
  tensors(): Map<string, Tensor>;
  /** Gives the memory back; sessions are released after it. */
  release(): Promise<void>;
}

/** Two sets of places for what a training holds; they share what does not move. */
const heldIn = (memory: Memory, initial: ReadonlyMap<string, Tensor>, moved: ReadonlySet<string>): Held => {
  const first = new Map<string, Place>();
  const second = new Map<string, Place>();
  for (const [name, tensor] of initial) {
    const place = memory.place(tensor);
    memory.write(place, tensor);
    first.set(name, place);
    second.set(name, moved.has(name) ? memory.place(tensor) : place);
  }
  memory.settle();
  return [first, second];
};

/** Programs by session, each with what runs in its place where it cannot be captured as a CUDA graph. */
const standIns = () => {
  const known = new Map<NativeSession, OrPlain<Loaded>>();
  return {
    of: (loaded: Loaded): OrPlain<Loaded> => {
      const found = known.get(loaded.session);
      if (found !== undefined) return found;
      const made = orWithoutGraph(loaded, loaded.withoutGraph);
      known.set(loaded.session, made);
      return made;
    },
    release: async () => {
      for (const either of known.values()) await (await either.plain())?.session.release();
    },
  };
};

/**
 * Parameters and state of a training in a memory, for any of its programs.
 * @param moved names of what a run replaces; the rest stays
 */
export const boundState = (
  memory: Memory,
  initial: ReadonlyMap<string, Tensor>,
  moved: ReadonlySet<string>,
): BoundState => {
  const held = heldIn(memory, initial, moved);
  const either = standIns();
  const programs = new Map<NativeSession, BoundProgram>();
  let [current, ran]: [SetIndex, boolean] = [0, false];
  let staged: { readonly inputs: Inputs; readonly session: NativeSession; readonly set: SetIndex } | undefined;
  let wanted: { readonly loaded: Loaded; readonly inputs: Inputs } | undefined;
  let last: Promise<unknown> = Promise.resolve();
  const programOf = ({ session, model }: Loaded): BoundProgram => {
    const known = programs.get(session);
    if (known !== undefined) return known;
    const fed = Object.keys(model.outputs).filter((name) => name.startsWith(FED_BACK));
    if (fed.length !== moved.size || !fed.every((name) => moved.has(name.slice(FED_BACK.length))))
      throw new Error("internal: programs of one training replace different values");
    const made = bindProgram(session, memory, held);
    programs.set(session, made);
    return made;
  };
  const other = (): SetIndex => (current === 0 ? 1 : 0);
  /** While a run computes: what the run after it wants, which will be read from the other set if this one is accepted. */
  const bringNext = (): void => {
    if (wanted === undefined) return;
    const { inputs } = wanted;
    const loaded = either.of(wanted.loaded).now();
    wanted = undefined;
    try {
      programOf(loaded).feed(other(), inputs);
      staged = { inputs, session: loaded.session, set: other() };
    } catch {
      // Their own run says what is wrong with them.
    }
  };
  const runOnce = (loaded: Loaded, inputs: Inputs): Promise<Record<string, Tensor>> =>
    loaded.session.turn(async () => {
      const program = programOf(loaded);
      const set = current;
      const isThere = staged?.inputs === inputs && staged.session === loaded.session && staged.set === set;
      if (!isThere) program.feed(set, inputs);
      if (staged?.set === set) staged = undefined;
      if (wanted?.inputs === inputs) wanted = undefined;
      ran = false;
      const results = await program.run(set, bringNext);
      ran = true;
      return results;
    });
  return {
    run: (loaded, inputs) => {
      const running = either.of(loaded).run((program) => runOnce(program, inputs));
      last = running.catch(() => undefined);
      return running;
    },
    stage: (loaded, inputs) => {
      wanted = { loaded, inputs };
    },
    accept: () => {
      if (ran) current = other();
      ran = false;
    },
    tensors: () => {
      const names = [...initial.keys()];
      const values = memory.read(names.map((name) => held[current]?.get(name) as Place));
      return new Map(names.map((name, i) => [name, values[i]!]));
    },
    release: async () => {
      await last;
      for (const program of programs.values()) program.release();
      await either.release();
      memory.release();
    },
  };
};
