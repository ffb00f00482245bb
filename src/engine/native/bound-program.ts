/** A program bound once to fixed places: two sets of them, so that a step reads the weights it replaces until it ends. */

import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { type Handle, handleOf } from "./api.ts";
import type { Memory, Place } from "./memory.ts";
import type { NativeSession } from "./session.ts";

export const FED_BACK = "next.";

/**
 * Places of parameters and state by model input name; each set has its own of what moves, and they share what does not. A program that
 * holds nothing has one set.
 */
export type Held = readonly [first: ReadonlyMap<string, Place>, second?: ReadonlyMap<string, Place>];

/** 0 or 1: which of the two sets a run reads; it writes the other. */
export type SetIndex = 0 | 1;

export interface BoundProgram {
  /** Brings `input.*` to where the set reads them; they may be under way until `run`. */
  feed(set: SetIndex, inputs: Readonly<Record<string, Tensor>>): void;
  /**
   * Runs, in the caller's turn, from a set into the other and returns copies of the outputs that are not fed back.
   * @param meanwhile what the host may do while a GPU computes; it must not throw
   */
  run(set: SetIndex, meanwhile?: () => void): Promise<Record<string, Tensor>>;
  release(): void;
}

/** What one set is bound with. */
interface Side {
  readonly binding: Handle;
  readonly inputs: ReadonlyMap<string, Place>;
  readonly outputs: ReadonlyMap<string, Place>;
  /** Of runs that return when the graph is launched. */
  readonly runOptions: Handle | undefined;
  /**
   * Of the first run, in which the graph is captured: it returns when all is done, because onnxruntime gives pinned memory back only then,
   * and a capture may not ask for more (scripts/parity/cuda-flow.ts).
   */
  readonly firstOptions: Handle | undefined;
  /** Values over the tensors that were fed last, where they lie. */
  readonly fed: Map<string, Handle>;
}

/** Places for the outputs of a program that are not fed back; the sets share them, since they are read after each run. */
const outputPlaces = (session: NativeSession, memory: Memory, [first]: Held): Map<string, Place> =>
  new Map(
    [...session.outputs].flatMap(([name, { dtype, shape }]) => {
      if (name.startsWith(FED_BACK) && first.has(name.slice(FED_BACK.length))) return [];
      if (dtype === undefined || shape.some((d) => d < 0))
        throw new Error(`internal: the output ${name} of a bound program has no fixed type`);
      return [[name, memory.place({ dtype, shape })] as const];
    }),
  );

/** What runs of a set are told, where it is replayed as a CUDA graph. */
const optionsOf = (session: NativeSession, set: SetIndex): Pick<Side, "runOptions" | "firstOptions"> => {
  const { api, graph } = session;
  if (!graph) return { runOptions: undefined, firstOptions: undefined };
  const made = (entries: Readonly<Record<string, string>>): Handle => {
    const options = handleOf(api, "ReleaseRunOptions", "CreateRunOptions");
    for (const [key, value] of Object.entries(entries)) api.call("AddRunConfigEntry", options.address, key, value);
    return options;
  };
  const id = { gpu_graph_id: String(set + 1) };
  return { firstOptions: made(id), runOptions: made({ ...id, disable_synchronize_execution_providers: "1" }) };
};

/** Binds a program. Each set has a CUDA graph of its own, told apart by `gpu_graph_id`. */
export const bindProgram = (session: NativeSession, memory: Memory, held: Held): BoundProgram => {
  const { api } = session;
  const outputs = outputPlaces(session, memory, held);
  const side = (set: SetIndex): Side => {
    const binding = handleOf(api, "ReleaseIoBinding", "CreateIoBinding", session.address);
    const inputs = new Map<string, Place>();
    for (const [name, { dtype, shape }] of session.inputs) {
      const place = held[set]?.get(name);
      if (place !== undefined) {
        api.call("BindInput", binding.address, name, place.value.address);
        continue;
      }
      if (memory.over !== undefined) continue;
      if (dtype === undefined || shape.some((d) => d < 0))
        throw new Error(`internal: the input ${name} of a bound program has no fixed type`);
      const made = memory.place({ dtype, shape });
      inputs.set(name, made);
      api.call("BindInput", binding.address, name, made.value.address);
    }
    for (const name of session.outputs.keys()) {
      const place = outputs.get(name) ?? held[set === 0 ? 1 : 0]?.get(name.slice(FED_BACK.length));
      if (place === undefined) throw new Error(`internal: ${name} is fed back to nothing`);
      api.call("BindOutput", binding.address, name, place.value.address);
    }
    return { binding, inputs, outputs, ...optionsOf(session, set), fed: new Map() };
  };
  const sides: readonly Side[] = held.map((_, set) => side(set as SetIndex));
  const captured = new Set<SetIndex>();
  return {
    feed: (set, given) => {
      const { binding, inputs, fed } = sides[set]!;
      for (const name of session.inputNames) {
        if (held[set]?.has(name)) continue;
        const tensor = session.checked(name, given[name]);
        const place = inputs.get(name);
        if (place !== undefined) {
          memory.write(place, tensor);
          continue;
        }
        const value = (memory.over as NonNullable<Memory["over"]>)(name, tensor);
        api.call("BindInput", binding.address, name, value.address);
        fed.get(name)?.release();
        fed.set(name, value);
      }
    },
    run: async (set, meanwhile) => {
      const { binding, firstOptions, runOptions } = sides[set]!;
      const options = captured.has(set) ? runOptions : firstOptions;
      memory.settle();
      try {
        await session.invoke("RunWithBinding", session.address, options?.address ?? null, binding.address);
        captured.add(set);
        meanwhile?.();
        if (runOptions !== undefined) api.call("SynchronizeBoundOutputs", binding.address);
      } catch (error) {
        throw session.explain(error);
      }
      const names = [...outputs.keys()];
      const tensors = memory.read([...outputs.values()]);
      return Object.fromEntries(names.map((name, i) => [name, tensors[i]!]));
    },
    release: () => {
      for (const { binding, firstOptions, runOptions, fed } of sides) {
        binding.release();
        firstOptions?.release();
        runOptions?.release();
        for (const value of fed.values()) value.release();
      }
    },
  };
};
