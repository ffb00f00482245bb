/** Runs a step again and again, feeding its own outputs back. */
import { input } from "../graphs/onnx/graph.ts";
import type { Tensor } from "../graphs/onnx/tensor.ts";
import { buildModel } from "../graphs/onnx/write.ts";
import { identity } from "../graphs/ops/index.ts";
import type { Step } from "../graphs/steps/step.ts";
import type { Engine } from "./engine.ts";
import { createSession, DeviceTensor } from "./runtime.ts";

export interface Runner {
  /** One step on `input.*`; returns what is not fed back: `metric.*` and anything else that the step gives. */
  run(inputs: Readonly<Record<string, Tensor>>): Promise<Record<string, Tensor>>;
  /** Takes over what the last step made of parameters and state; without it the next step starts where that one did. */
  accept(): void;
  /** `param.*` and `state.*` as accepted, in host memory. */
  tensors(): Promise<Map<string, Tensor>>;
  release(): Promise<void>;
}

const fedBack = "next.";

/**
 * Loads a step and holds its parameters and state, by model input name: in host memory, or on the device where the
 * engine keeps them there, so that weights do not cross the bus between steps.
 */
export const createRunner = async (
  engine: Engine,
  step: Step,
  initial: ReadonlyMap<string, Tensor>,
): Promise<Runner> => {
  const kept = engine.keepsState ? Object.keys(step.outputs).filter((name) => name.startsWith(fedBack)) : [];
  const { session } = await engine.load(step, { keepOnDevice: kept });
  const held = new Map<string, Tensor | DeviceTensor>(initial);
  let pending = new Map<string, Tensor | DeviceTensor>();
  const drop = (value: Tensor | DeviceTensor | undefined): void => {
    if (value instanceof DeviceTensor) value.dispose();
  };
  return {
    run: async (inputs) => {
      const results = await session.runOnDevice({ ...Object.fromEntries(held), ...inputs });
      for (const value of pending.values()) drop(value);
      pending = new Map();
      const returned: Record<string, Tensor> = {};
      for (const [name, value] of Object.entries(results))
        if (name.startsWith(fedBack)) pending.set(name.slice(fedBack.length), value);
        else returned[name] = value as Tensor;
      return returned;
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
      await session.release();
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
