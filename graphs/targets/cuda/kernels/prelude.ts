/**
 * What every kernel's source begins with. It includes nothing, so a user needs neither CUDA's headers nor a compiler beside
 * NVRTC: float16 is only stored and loaded, all arithmetic is in float, and the two conversions are single instructions.
 *
 * test/emulator/cuda.hpp gives the same source threads and barriers on a CPU; there `EMULATED` is defined.
 */
export const prelude = `
#ifndef EMULATED
struct float16 {
  unsigned short bits;
};
__device__ __forceinline__ float load(float16 v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
}
__device__ __forceinline__ void store(float16& to, float v) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(v));
}
#endif
__device__ __forceinline__ float load(float v) { return v; }
__device__ __forceinline__ void store(float& to, float v) { to = v; }

// N elements that are read or written by one instruction; addresses must be multiples of its size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};
// What a launch only reads, through the cache for such: so loads of several rows may be under way at once.
template <int N, typename T>
__device__ __forceinline__ Vector<T, N> loadVector(const T* from) {
#ifndef EMULATED
  if constexpr (sizeof(T) * N == 16) {
    const uint4 w = __ldg(reinterpret_cast<const uint4*>(from));
    return *reinterpret_cast<const Vector<T, N>*>(&w);
  } else if constexpr (sizeof(T) * N == 8) {
    const uint2 w = __ldg(reinterpret_cast<const uint2*>(from));
    return *reinterpret_cast<const Vector<T, N>*>(&w);
  }
#endif
  return *reinterpret_cast<const Vector<T, N>*>(from);
}
// A store of 8 or 16 bytes is written out: of its own accord NVRTC splits a struct into stores of its members. Loads may move
// across it, so that several are under way at once; no kernel reads in one launch what it stores so.
template <typename T>
__device__ __forceinline__ void storeWhole(T* to, const T& v) {
#ifndef EMULATED
  if constexpr (sizeof(T) == 16) {
    const uint4 w = *reinterpret_cast<const uint4*>(&v);
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(w.x), "r"(w.y), "r"(w.z), "r"(w.w));
    return;
  } else if constexpr (sizeof(T) == 8) {
    const uint2 w = *reinterpret_cast<const uint2*>(&v);
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(w.x), "r"(w.y));
    return;
  }
#endif
  *to = v;
}
template <int N, typename T>
__device__ __forceinline__ void storeVector(T* to, const Vector<T, N>& v) {
  storeWhole(reinterpret_cast<Vector<T, N>*>(to), v);
}
`;
