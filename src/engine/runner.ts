/** Runs a step again and again, feeding its own outputs back; several times in one run of the engine where asked to. */
import { input } from "../../graphs/onnx/graph.ts";
import { float32, type Tensor } from "../../graphs/onnx/tensor.ts";
import { buildModel, type Model } from "../../graphs/onnx/write.ts";
import { identity } from "../../graphs/ops/index.ts";
import { manySteps } from "../../graphs/steps/many.ts";
import { fedBackTo } from "../../graphs/steps/names.ts";
import type { Step } from "../../graphs/steps/step.ts";
import type { Engine } from "./engine.ts";
import { loadCudaRuntime } from "./native/cuda-runtime.ts";
import { cudaPlaces, hostPlaces } from "./native/memory.ts";
import { boundState, type Loaded } from "./native/runner.ts";
import { isNative } from "./native/session.ts";
import { createSession, DeviceTensor, type Session } from "./session.ts";

type Inputs = Readonly<Record<string, Tensor>>;

export interface Runner {
  readonly model: Model;
  /** One step on `input.*`; returns what is not fed back: `metric.*` and anything else that the step gives. */
  run(inputs: Inputs): Promise<Record<string, Tensor>>;
  /**
   * As many steps as a run holds, one after the other: the inputs of each; returns `metric.*` of each. A metric that is not
   * a finite number spoils those of the other steps too.
   */
  runMany(batches: readonly Inputs[]): Promise<Record<string, Tensor>[]>;
  /**
   * Brings the inputs of the run after the next one on their way to the device, where that is of use: what `run` or `runMany`
   * is given then has to be the same object.
   */
  stage?(inputs: Inputs | readonly Inputs[]): void;
  /** Takes over what the last run made of parameters and state; without it the next one starts where that one did. */
  accept(): void;
  /** `param.*` and `state.*` as accepted, in host memory. */
  tensors(): Promise<Map<string, Tensor>>;
  release(): Promise<void>;
}

/** The inputs of several steps as those of one run: each stacked along a new first axis. */
const stacked = (batches: readonly Inputs[]): Inputs => {
  const [first = {}] = batches;
  return Object.fromEntries(
    Object.entries(first).map(([name, { dtype, shape, data }]) => {
      const all = new (data.constructor as new (length: number) => Tensor["data"])(batches.length * data.length);
      batches.forEach((batch, i) => {
        all.set(batch[name]?.data as never, i * data.length);
      });
      return [name, { dtype, shape: [batches.length, ...shape], data: all } as Tensor];
    }),
  );
};

/** The metrics of each of several steps, from those of one run. */
const ofEachStep = (results: Readonly<Record<string, Tensor>>, count: number): Record<string, Tensor>[] =>
  Array.from({ length: count }, (_, i) =>
    Object.fromEntries(
      Object.entries(results).map(([name, { data }]) => [name, float32([], [Number(data[i])])] as const),
    ),
  );

/**
 * Loads a step and holds its parameters and state, by model input name: in host memory, or on the device where the
 * engine keeps them there, so that weights do not cross the bus between steps.
 *
 * @param stepsPerRun how many steps `runMany` takes; the program of a single step is then loaded when `run` first needs it
 */
export const createRunner = async (
  engine: Engine,
  step: Step,
  initial: ReadonlyMap<string, Tensor>,
  stepsPerRun = 1,
): Promise<Runner> => {
  if (engine.name === "native") return createBoundRunner(engine, step, initial, stepsPerRun);
  const load = (program: Step) => {
    const kept = engine.keepsState ? Object.keys(program.outputs).filter((name) => fedBackTo(name) !== undefined) : [];
    return engine.load(program, { keepOnDevice: kept });
  };
  const many = stepsPerRun > 1 ? await load(manySteps(step, stepsPerRun)) : undefined;
  let one = many === undefined ? await load(step) : undefined;
  const held = new Map<string, Tensor | DeviceTensor>(initial);
  let pending = new Map<string, Tensor | DeviceTensor>();
  const drop = (value: Tensor | DeviceTensor | undefined): void => {
    if (value instanceof DeviceTensor) value.dispose();
  };
  const runWith = async ({ session }: { readonly session: Session }, inputs: Inputs) => {
    const results = await session.runOnDevice({ ...Object.fromEntries(held), ...inputs });
    for (const value of pending.values()) drop(value);
    pending = new Map();
    const returned: Record<string, Tensor> = {};
    for (const [name, value] of Object.entries(results)) {
      const fed = fedBackTo(name);
      if (fed === undefined) returned[name] = value as Tensor;
      else pending.set(fed, value);
    }
    return returned;
  };
  return {
    model: (many ?? one)?.model as Model,
    run: async (inputs) => {
      one ??= await load(step);
      return runWith(one, inputs);
    },
    runMany: async (batches) => {
      if (many === undefined || batches.length !== stepsPerRun)
        throw new Error(`internal: ${batches.length} steps are not the ${stepsPerRun} of a run`);
      return ofEachStep(await runWith(many, stacked(batches)), batches.length);
    },
    accept: () => {
      for (const [name, value] of pending) {
        drop(held.get(name));
        held.set(name, value);
      }
      pending = new Map();
    },
    tensors: async () => {
      const onDevice = [...held].flatMap(([name, value]) =>
        value instanceof DeviceTensor ? [[name, value] as const] : [],
      );
      const fetched = onDevice.length === 0 ? {} : await fetch(engine, Object.fromEntries(onDevice));
      return new Map([...held].map(([name, value]) => [name, fetched[name] ?? (value as Tensor)]));
    },
    release: async () => {
      for (const value of [...held.values(), ...pending.values()]) drop(value);
      await one?.session.release();
      await many?.session.release();
    },
  };
};

/** The same by the native engine: parameters and state are bound once, in host memory or the GPU's, and never copied. */
const createBoundRunner = async (
  engine: Engine,
  step: Step,
  initial: ReadonlyMap<string, Tensor>,
  stepsPerRun: number,
): Promise<Runner> => {
  const load = async (program: Step, graph = engine.graphs): Promise<Loaded> => {
    const plain = { cuda: { ...engine.options.cuda, graph: false } };
    const { model, session } = await engine.load(program, graph ? {} : plain);
    if (!isNative(session)) throw new Error("internal: the native engine made a session of another kind");
    return { model, session, ...(graph && { withoutGraph: () => load(program, false) }) };
  };
  const many = stepsPerRun > 1 ? await load(manySteps(step, stepsPerRun)) : undefined;
  let one = many === undefined ? await load(step) : undefined;
  const first = (many ?? one) as Loaded;
  const { api, address } = first.session;
  const { provider, options } = engine;
  const memory =
    provider === "cuda" ? cudaPlaces(api, loadCudaRuntime(), address, options.cuda?.device ?? 0) : hostPlaces(api);
  const moved = Object.keys(first.model.outputs).flatMap((name) => fedBackTo(name) ?? []);
  const state = boundState(memory, initial, new Set(moved));
  // What was stacked ahead, by the batches that it was made of.
  const ahead = new WeakMap<readonly Inputs[], Inputs>();
  const together = (batches: readonly Inputs[]): Inputs => {
    const known = ahead.get(batches) ?? stacked(batches);
    ahead.set(batches, known);
    return known;
  };
  return {
    model: first.model,
    run: async (inputs) => {
      one ??= await load(step);
      return state.run(one, inputs);
    },
    runMany: async (batches) => {
      if (many === undefined || batches.length !== stepsPerRun)
        throw new Error(`internal: ${batches.length} steps are not the ${stepsPerRun} of a run`);
      return ofEachStep(await state.run(many, together(batches)), batches.length);
    },
    // The host reads inputs where they lie.
    ...(memory.over === undefined && {
      stage: (inputs: Inputs | readonly Inputs[]) => {
        if (Array.isArray(inputs)) state.stage(many as Loaded, together(inputs));
        else if (one !== undefined) state.stage(one, inputs as Inputs);
      },
    }),
    accept: state.accept,
    tensors: async () => state.tensors(),
    release: async () => {
      await state.release();
      await one?.session.release();
      await many?.session.release();
    },
  };
};

/** Copies values to host memory through a model that returns its inputs: reading a device tensor directly aborts the process. */
const fetch = async (
  engine: Engine,
  values: Readonly<Record<string, DeviceTensor>>,
): Promise<Record<string, Tensor>> => {
  const copies = Object.entries(values).map(([name, type]) => [`host.${name}`, identity(input(name, type))] as const);
  const session = await createSession(buildModel(Object.fromEntries(copies)), engine.options);
  try {
    const results = await session.runOnDevice(values);
    return Object.fromEntries(
      Object.entries(results).map(([name, value]) => [name.slice("host.".length), value as Tensor]),
    );
  } finally {
    await session.release();
  }
};
