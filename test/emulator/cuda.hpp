// The part of CUDA C that this project's kernels use, on a CPU: threads of a block are fibers that run in turn, barriers
// switch between them, shared memory is static because blocks run one after the other.
//
// A thread that leaves while others wait at a barrier, or barriers that not all threads of a block reach, end in an error
// message instead of a hang. Blocks run in the order that `emulatedOrder` says, so that a test can tell whether their order
// matters, which on a GPU is nobody's to say.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define EMULATED 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static
#define __launch_bounds__(n)
#define __grid_constant__

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

struct Dimensions {
  unsigned x, y, z;
};
static Dimensions threadIdx, blockIdx, blockDim, gridDim;

// float16: rounded to nearest, ties to even, as cvt.rn does.
struct float16 {
  unsigned short bits;
};
static inline float load(float16 v) {
  const uint32_t sign = (uint32_t)(v.bits & 0x8000) << 16, exponent = (v.bits >> 10) & 31, fraction = v.bits & 1023;
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * ldexp((float)fraction, -24);
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
static inline void store(float16& to, float f) {
  uint32_t b;
  memcpy(&b, &f, 4);
  const uint32_t sign = b >> 16 & 0x8000, magnitude = b & 0x7fffffff;
  if (magnitude > 0x7f800000) to.bits = 0x7fff;
  else if (magnitude >= 0x477ff000) to.bits = sign | 0x7c00;
  else if (magnitude >= 0x38800000) to.bits = sign | (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13;
  else to.bits = sign | (uint32_t)nearbyint(ldexp(fabs(f), 24));
}
static inline float rsqrtf(float x) { return 1.0f / sqrt(x); }

namespace emulator {

enum class State { ready, waiting, done };
struct Fiber {
  ucontext_t context;
  State state;
  char* stack;
};
constexpr unsigned maxThreads = 1024;
constexpr unsigned stackSize = 64 << 10;
static Fiber fibers[maxThreads];
static ucontext_t scheduler;
static unsigned current;
static void (*body)(const void*);
static const void* arguments;
static const char* failure = nullptr;
static int order = 0;

static void enter() {
  body(arguments);
  fibers[current].state = State::done;
  swapcontext(&fibers[current].context, &scheduler);
}

static void resume(unsigned i) {
  current = i;
  threadIdx = {i, 0, 0};
  swapcontext(&scheduler, &fibers[i].context);
}

static void runBlock(unsigned threads) {
  for (unsigned i = 0; i < threads; i++) {
    Fiber& fiber = fibers[i];
    getcontext(&fiber.context);
    if (fiber.stack == nullptr) fiber.stack = (char*)malloc(stackSize);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = stackSize;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    fiber.state = State::ready;
  }
  for (;;) {
    unsigned waiting = 0, done = 0;
    for (unsigned i = 0; i < threads; i++) {
      if (fibers[i].state == State::ready) resume(i);
      if (fibers[i].state == State::waiting) waiting++;
      else done++;
    }
    if (waiting == 0) return;
    if (done > 0) {
      failure = "some threads of a block left while others wait at a barrier";
      return;
    }
    for (unsigned i = 0; i < threads; i++) fibers[i].state = State::ready;
  }
}

// Runs a grid of blocks; returns what is wrong, or null.
static const char* run(void (*kernel)(const void*), const void* given, unsigned gridX, unsigned gridY, unsigned threads) {
  if (threads == 0 || threads > maxThreads) return "a block has 1 to 1024 threads";
  body = kernel;
  arguments = given;
  failure = nullptr;
  gridDim = {gridX, gridY, 1};
  blockDim = {threads, 1, 1};
  const unsigned blocks = gridX * gridY;
  for (unsigned n = 0; n < blocks && failure == nullptr; n++) {
    const unsigned block = order == 0 ? n : blocks - 1 - n;
    blockIdx = {block % gridX, block / gridX, 0};
    runBlock(threads);
  }
  return failure;
}

}  // namespace emulator

static inline void __syncthreads() {
  emulator::fibers[emulator::current].state = emulator::State::waiting;
  swapcontext(&emulator::fibers[emulator::current].context, &emulator::scheduler);
}

extern "C" void emulatedOrder(int backwards) { emulator::order = backwards; }

// What a program must say of each function that is launched.
#define EMULATED_KERNEL(name)                                                                                       \
  static void call_##name(const void* given) { name(*(const Arguments*)given); }                                    \
  extern "C" const char* emulated_##name(const void* given, unsigned gridX, unsigned gridY, unsigned threads) {     \
    return emulator::run(call_##name, given, gridX, gridY, threads);                                                \
  }
