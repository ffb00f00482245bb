/** Memory that programs are bound to, so that what a run leaves is where the next one reads: the host's, or a GPU's. */
import { type DType, dtypes, type TensorData } from "../../../graphs/onnx/dtype.ts";
import { sizeOf, type Tensor, zeros } from "../../../graphs/onnx/tensor.ts";
import { Handle, handleOf, type OrtApi } from "./api.ts";
import type { CudaRuntime } from "./cuda-runtime.ts";
import { valueOfTensor, valueOver } from "./values.ts";

export interface TensorType {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** Room for a tensor at one address. */
export interface Place {
  readonly type: TensorType;
  /** onnxruntime's value over it. */
  readonly value: Handle;
}

export interface Memory {
  place(type: TensorType): Place;
  /** Puts a tensor's numbers there; they may be under way until `settle`. */
  write(place: Place, tensor: Tensor): void;
  /** Waits for everything that was written. */
  settle(): void;
  /** Copies of what lies there. */
  read(places: readonly Place[]): Tensor[];
  /** A value over a tensor where it lies, for programs that can read it there. */
  over?(name: string, tensor: Tensor): Handle;
  /** Gives everything back, places and values. */
  release(): void;
}

/** JavaScript's own memory: nothing is copied on the way to onnxruntime. */
export const hostPlaces = (api: OrtApi): Memory => {
  const tensors = new Map<Place, Tensor>();
  const dataOf = (place: Place): TensorData => (tensors.get(place) as Tensor).data;
  return {
    place: (type) => {
      const tensor = zeros(type.dtype, type.shape);
      const place = { type, value: valueOfTensor(api, "a place", tensor) };
      tensors.set(place, tensor);
      return place;
    },
    write: (place, { data }) => (dataOf(place) as Float32Array).set(data as Float32Array),
    settle: () => undefined,
    read: (places) => places.map((place) => ({ ...place.type, data: dataOf(place).slice() }) as Tensor),
    over: (name, tensor) => valueOfTensor(api, name, tensor),
    release: () => {
      for (const { value } of tensors.keys()) value.release();
      tensors.clear();
    },
  };
};

/** `OrtDeviceAllocator` and `OrtMemTypeDefault`. */
const [DEVICE_ALLOCATOR, DEFAULT_MEMORY] = [0, 0];

/** Room in pinned memory for each place, its own: what was written there may still be read by a copy. */
const pinnedRooms = (runtime: CudaRuntime) => {
  const rooms = new Map<Place, bigint>();
  return {
    of: (place: Place, bytes: number): bigint => {
      const room = rooms.get(place) ?? runtime.allocatePinned(Math.max(bytes, 1));
      rooms.set(place, room);
      return room;
    },
    release: () => {
      for (const room of rooms.values()) runtime.freePinned(room);
      rooms.clear();
    },
  };
};

/**
 * A GPU's memory, from the allocator of a session on it. Copies go through pinned memory on a stream of their own, so that
 * they pass while another stream computes.
 * @param session address of a session on that device; it has to outlive the memory
 */
export const cudaPlaces = (api: OrtApi, runtime: CudaRuntime, session: bigint, device: number): Memory => {
  const info = handleOf(api, "ReleaseMemoryInfo", "CreateMemoryInfo", "Cuda", DEVICE_ALLOCATOR, device, DEFAULT_MEMORY);
  const allocator = handleOf(api, "ReleaseAllocator", "CreateAllocator", session, info.address);
  const stream = runtime.createStream();
  const places = new Map<Place, { readonly block: Handle; readonly address: bigint; readonly bytes: number }>();
  const rooms = pinnedRooms(runtime);
  const pending = new Set<Place>();
  const blockOf = (place: Place) => {
    const found = places.get(place);
    if (found === undefined) throw new Error("internal: a place of another memory");
    return found;
  };
  const settle = (): void => {
    if (pending.size > 0) runtime.synchronize(stream);
    pending.clear();
  };
  return {
    place: (type) => {
      const bytes = sizeOf(type.shape) * dtypes[type.dtype].array.BYTES_PER_ELEMENT;
      const address = api.out("AllocatorAlloc", allocator.address, Math.max(bytes, 1));
      const block = new Handle(address, "memory of a GPU", (pointer) =>
        api.call("AllocatorFree", allocator.address, pointer),
      );
      const place = { type, value: valueOver(api, info.address, type, address) };
      places.set(place, { block, address, bytes });
      return place;
    },
    write: (place, { data }) => {
      const { address, bytes } = blockOf(place);
      const room = rooms.of(place, bytes);
      // What was written there before may be on its way still.
      if (pending.has(place)) settle();
      runtime.bytesAt(room, bytes).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      runtime.copy("toDevice", address, room, bytes, stream);
      pending.add(place);
    },
    settle,
    read: (wanted) => {
      for (const place of wanted) {
        const { address, bytes } = blockOf(place);
        runtime.copy("toHost", rooms.of(place, bytes), address, bytes, stream);
      }
      runtime.synchronize(stream);
      pending.clear();
      return wanted.map((place) => {
        const tensor = zeros(place.type.dtype, place.type.shape);
        const { data } = tensor;
        new Uint8Array(data.buffer).set(runtime.bytesAt(rooms.of(place, data.byteLength), data.byteLength));
        return tensor;
      });
    },
    release: () => {
      settle();
      for (const [place, { block }] of places) {
        place.value.release();
        block.release();
      }
      places.clear();
      rooms.release();
      runtime.destroyStream(stream);
      allocator.release();
      info.release();
    },
  };
};
