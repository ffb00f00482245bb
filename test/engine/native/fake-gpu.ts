/**
 * A GPU that is none: device memory is a map of arrays, and every call of the C API and of CUDA's runtime is recorded. What
 * touches an address that was not given out, or copies past the end of what was, throws.
 */
import { dtypes } from "../../../graphs/onnx/dtype.ts";
import type { OrtApi } from "../../../src/engine/native/api.ts";
import type { CudaRuntime } from "../../../src/engine/native/cuda-runtime.ts";
import type { TensorType } from "../../../src/engine/native/memory.ts";
import type { NativeSession } from "../../../src/engine/native/session.ts";

export interface FakeGpu {
  readonly api: OrtApi;
  readonly runtime: CudaRuntime;
  /** What was called, with numbers and texts; addresses by the names they were given out as. */
  readonly calls: string[];
  /** Names of what was given out and not given back. */
  alive(): string[];
  /** A session of that many inputs and outputs; `compute` is its program, over arrays of bytes at the bound addresses. */
  session(
    inputs: Readonly<Record<string, TensorType>>,
    outputs: Readonly<Record<string, TensorType>>,
    compute: (inputs: Map<string, Float32Array>, outputs: Map<string, Float32Array>) => void,
  ): NativeSession;
}

interface Value {
  readonly address: bigint;
  readonly bytes: number;
}

export const fakeGpu = (): FakeGpu => {
  const calls: string[] = [];
  const names = new Map<bigint, string>();
  const memory = new Map<bigint, Uint8Array>();
  const values = new Map<bigint, Value>();
  const bindings = new Map<bigint, { inputs: Map<string, Value>; outputs: Map<string, Value>; session: bigint }>();
  const programs = new Map<bigint, (binding: bigint) => void>();
  const counts = new Map<string, number>();
  let next = 0x1000n;
  const give = (kind: string): bigint => {
    const number = counts.get(kind) ?? 0;
    counts.set(kind, number + 1);
    next += 0x1000n;
    names.set(next, `${kind}${number}`);
    return next;
  };
  const back = (address: bigint): void => {
    if (!names.delete(address)) throw new Error(`${address} is given back and was not given out, or twice`);
    memory.delete(address);
    values.delete(address);
    bindings.delete(address);
  };
  const text = (argument: unknown): string =>
    typeof argument === "bigint"
      ? (names.get(argument) ?? `?${argument}`)
      : ArrayBuffer.isView(argument)
        ? `[${argument}]`
        : String(argument);
  const record = (name: string, ...args: unknown[]): void => void calls.push(`${name}(${args.map(text).join(", ")})`);
  const block = (address: bigint, bytes: number): Uint8Array => {
    const found = memory.get(address);
    if (found === undefined || found.byteLength < bytes) throw new Error(`no ${bytes} bytes at ${text(address)}`);
    return found.subarray(0, bytes);
  };
  const makers: Readonly<Record<string, (...args: never[]) => bigint>> = {
    CreateMemoryInfo: () => give("info"),
    CreateAllocator: () => give("allocator"),
    AllocatorAlloc: (_: bigint, bytes: number) => {
      const address = give("gpu");
      memory.set(address, new Uint8Array(bytes).fill(0xee));
      return address;
    },
    CreateTensorWithDataAsOrtValue: (_: bigint, address: bigint, bytes: number) => {
      block(address, bytes);
      const value = give("value");
      values.set(value, { address, bytes });
      return value;
    },
    CreateIoBinding: (session: bigint) => {
      const binding = give("binding");
      bindings.set(binding, { inputs: new Map(), outputs: new Map(), session });
      return binding;
    },
    CreateRunOptions: () => give("options"),
  };
  const bind = (side: "inputs" | "outputs") => (binding: bigint, name: string, value: bigint) =>
    bindings.get(binding)?.[side].set(name, values.get(value) as Value);
  const doers: Readonly<Record<string, (...args: never[]) => unknown>> = {
    BindInput: bind("inputs"),
    BindOutput: bind("outputs"),
    AddRunConfigEntry: () => undefined,
    SynchronizeBoundOutputs: () => undefined,
    AllocatorFree: (_: bigint, address: bigint) => back(address),
    RunWithBinding: (session: bigint, _: bigint, binding: bigint) => programs.get(session)?.(binding),
  };
  const call = (name: string, ...args: unknown[]): unknown => {
    record(name, ...args);
    if (name.startsWith("Release")) return back(args[0] as bigint);
    const does = doers[name];
    if (does === undefined) throw new Error(`${name} was not expected`);
    return does(...(args as never[]));
  };
  const out = (name: string, ...args: unknown[]): bigint => {
    const make = makers[name];
    if (make === undefined) throw new Error(`${name} was not expected`);
    const made = make(...(args as never[]));
    calls.push(`${text(made)} = ${name}(${args.map(text).join(", ")})`);
    return made;
  };
  const runtime: CudaRuntime = {
    allocatePinned: (bytes) => {
      const address = give("pinned");
      memory.set(address, new Uint8Array(bytes));
      record("allocatePinned", bytes);
      return address;
    },
    freePinned: (address) => {
      record("freePinned", address);
      back(address);
    },
    bytesAt: block,
    createStream: () => give("stream"),
    destroyStream: (stream) => back(stream),
    copy: (direction, to, from, bytes, stream) => {
      record("copy", direction, to, from, bytes, stream);
      block(to, bytes).set(block(from, bytes));
    },
    synchronize: (stream) => record("synchronize", stream),
  };
  const api = { call, out, callAsync: async (name: string, ...args: unknown[]) => void call(name, ...args) };
  return {
    api: api as unknown as OrtApi,
    runtime,
    calls,
    alive: () => [...names.values()].sort(),
    session: (inputs, outputs, compute) => {
      const address = give("session");
      const floats = (bound: Map<string, Value>, wanted: Readonly<Record<string, TensorType>>) =>
        new Map(
          Object.entries(wanted).map(([name, { dtype, shape }]) => {
            const value = bound.get(name);
            const bytes = shape.reduce((n, d) => n * d, 1) * dtypes[dtype].array.BYTES_PER_ELEMENT;
            if (value?.bytes !== bytes) throw new Error(`${name} is bound to ${value?.bytes} bytes of ${bytes}`);
            return [name, new Float32Array(block(value.address, bytes).buffer, 0, bytes / 4)] as const;
          }),
        );
      programs.set(address, (binding) => {
        const bound = bindings.get(binding);
        if (bound?.session !== address) throw new Error("a binding of another session");
        compute(floats(bound.inputs, inputs), floats(bound.outputs, outputs));
      });
      let last: Promise<unknown> = Promise.resolve();
      const session: Partial<NativeSession> = {
        api: api as unknown as OrtApi,
        address,
        graph: true,
        inputs: new Map(Object.entries(inputs)),
        outputs: new Map(Object.entries(outputs)),
        inputNames: Object.keys(inputs),
        outputNames: Object.keys(outputs),
        checked: (name, tensor) => {
          if (tensor === undefined) throw new Error(`the input ${name} is not fed`);
          return tensor;
        },
        invoke: async (name, ...args) => void call(name, ...args),
        turn: (work) => {
          const turn = last.then(work);
          last = turn.catch(() => undefined);
          return turn;
        },
        explain: (error) => error as Error,
        release: async () => back(address),
      };
      return session as NativeSession;
    },
  };
};
