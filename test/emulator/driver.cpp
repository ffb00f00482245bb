// NVIDIA's driver as far as launch.ts calls it, over kernels that g++ compiled: a program's "machine code" is the path of its
// library. What a launch is told goes into counters, so that a test sees that it arrived.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>

static int depth = 0, launches = 0, held = 0;
static const char* refusal = nullptr;

extern "C" {
int emulatedLaunches() { return launches; }
int emulatedHeld() { return held; }
const char* emulatedRefusal() { return refusal; }

int cuInit(unsigned) { return 0; }
int cuGetErrorName(int code, const char** name) {
  *name = code == 201 ? "CUDA_ERROR_INVALID_CONTEXT" : code == 500 ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_INVALID_VALUE";
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 9 : 0;
  return device == 0 && (attribute == 75 || attribute == 76) ? 0 : 1;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
  *context = &depth;
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxPushCurrent_v2(void* context) {
  depth++;
  return context == &depth ? 0 : 201;
}
int cuCtxPopCurrent_v2(void** context) {
  depth--;
  *context = &depth;
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  if (depth == 0) return 201;
  *module = dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL);
  return *module == nullptr ? 1 : 0;
}
int cuModuleUnload(void* module) { return dlclose(module); }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = dlsym(module, (std::string("emulated_") + name).c_str());
  return *function == nullptr ? 500 : 0;
}
int cuMemAlloc_v2(unsigned long long* address, size_t bytes) {
  if (depth == 0) return 201;
  held++;
  *address = (unsigned long long)malloc(bytes);
  return 0;
}
int cuMemFree_v2(unsigned long long address) {
  if (depth == 0) return 201;
  held--;
  free((void*)address);
  return 0;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream,
                   void** parameters, void** extra) {
  if (depth == 0) return 201;
  if (gz != 1 || by != 1 || bz != 1 || shared != 0 || stream != nullptr || extra != nullptr) return 1;
  refusal = ((const char* (*)(const void*, unsigned, unsigned, unsigned))function)(parameters[0], gx, gy, bx);
  launches++;
  return refusal == nullptr ? 0 : 1;
}
}
