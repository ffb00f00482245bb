// CUDA's libraries as far as onnxruntime's provider and the native engine ask them for answers: one device, whose memory is the host's, which
// computes nothing. What a capture forbids is refused as CUDA refuses it. Every function that is not here is made to do nothing (cuda-stand-ins.ts).
// With CUDA_STAND_INS=1 what matters to a CUDA graph is told on stderr, a line each.
#include <driver_types.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int capturing, forbidden;
static void tell(const char *what) {
  if (getenv("CUDA_STAND_INS")) fprintf(stderr, "cuda: %s\n", what);
}
static int refused(const char *what) {
  if (!capturing) return 0;
  tell("refused in a capture:");
  tell(what);
  forbidden = 1;
  return 900;
}
static int give(void **p, size_t n, const char *what) {
  if (refused(what)) return 900;
  *p = malloc(n + 1);
  return 0;
}

int cudaGetDeviceCount(int *n) { return *n = 1, 0; }
int cudaGetDevice(int *n) { return *n = 0, 0; }
int cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  p->major = 9, p->multiProcessorCount = 132, p->totalGlobalMem = 80ull << 30, p->warpSize = 32;
  p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048, p->sharedMemPerBlock = 49152;
  return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) { return *value = attribute == 75 ? 9 : 132, 0; }
int cudaDriverGetVersion(int *v) { return *v = 13000, 0; }
int cudaRuntimeGetVersion(int *v) { return *v = 13000, 0; }
int cudaMemGetInfo(size_t *free, size_t *total) { return *free = *total = 80ull << 30, 0; }
const char *cudaGetErrorString(int code) { return code == 901 ? "operation failed due to a previous error during capture" : "operation not permitted when stream is capturing"; }
int cudaMalloc(void **p, size_t n) {
  static size_t all;
  all += n;
  if (getenv("CUDA_STAND_INS")) fprintf(stderr, "cuda memory: %zu MB\n", all >> 20);
  return give(p, n, "cudaMalloc");
}
int cudaMallocHost(void **p, size_t n) { return give(p, n, "cudaMallocHost"); }
int cudaHostAlloc(void **p, size_t n, unsigned flags) { return give(p, n, "cudaHostAlloc"); }
int cudaFree(void *p) { return refused("cudaFree") ? 900 : (free(p), 0); }
int cudaFreeHost(void *p) { return refused("cudaFreeHost") ? 900 : (free(p), 0); }
int cudaMemcpy(void *to, const void *from, size_t n, int kind) { return memcpy(to, from, n), 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) { return memcpy(to, from, n), 0; }
int cudaMemset(void *to, int value, size_t n) { return memset(to, value, n), 0; }
int cudaMemsetAsync(void *to, int value, size_t n, void *stream) { return memset(to, value, n), 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return give(stream, 64, "cudaStreamCreateWithFlags"); }
int cudaStreamDestroy(void *stream) { return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { return *status = capturing, 0; }
int cudaStreamSynchronize(void *stream) { return tell("stream synchronized"), refused("cudaStreamSynchronize"); }
int cudaDeviceSynchronize(void) { return tell("device synchronized"), refused("cudaDeviceSynchronize"); }
int cudaStreamBeginCapture(void *stream, int mode) { return tell("capture begins"), capturing = 1, 0; }
int cudaStreamEndCapture(void *stream, void **graph) {
  static char made[64];
  const int failed = forbidden;
  tell(failed ? "capture failed" : "captured");
  *graph = made, capturing = forbidden = 0;
  return failed ? 901 : 0;
}
int cudaGraphInstantiate(void **made, void *graph, unsigned long long flags) { return give(made, 64, "cudaGraphInstantiate"); }
int cudaGraphLaunch(void *graph, void *stream) { return tell("graph launched"), 0; }
void **__cudaRegisterFatBinary(void *code) {
  static void *handle[64];
  return handle;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) { return *value = attribute == 75 ? 9 : 0, 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return give(context, 64, "cuDevicePrimaryCtxRetain"); }
int cuCtxPopCurrent_v2(void **context) { return *context = &capturing, 0; }
int cuModuleLoadData(void **module, const void *image) { return give(module, 64, "cuModuleLoadData"); }
int cuModuleGetFunction(void **function, void *module, const char *name) { return *function = module, 0; }
int cuMemAlloc_v2(unsigned long long *address, size_t n) { return give((void **)address, n, "cuMemAlloc"); }
int cuMemFree_v2(unsigned long long address) { return free((void *)address), 0; }
int cuGetErrorName(int code, const char **name) { return *name = "CUDA_ERROR_OF_A_STAND_IN", 0; }
int cuInit(unsigned flags) { return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxPushCurrent_v2(void *context) { return 0; }
int cuModuleUnload(void *module) { return 0; }
int cuLaunchKernel(void *function, unsigned gx) { return 0; }

struct perf {
  int algorithm, status;
  float time;
  size_t memory;
  int determinism, math, reserved[3];
};
static int first(int *found, struct perf *p) {
  memset(p, 0, sizeof *p);
  p->algorithm = p->determinism = *found = 1, p->memory = 4096;
  return 0;
}
size_t cudnnGetVersion(void) { return 91300; }
const char *cudnnGetErrorString(int code) { return "CUDNN_STATUS_OF_A_STAND_IN"; }
int cudnnGetConvolutionForwardAlgorithm_v7(void *h, void *a, void *b, void *c, void *d, int most, int *found, struct perf *p) { return first(found, p); }
int cudnnGetConvolutionBackwardDataAlgorithm_v7(void *h, void *a, void *b, void *c, void *d, int most, int *found, struct perf *p) { return first(found, p); }
int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void *h, void *a, void *b, void *c, void *d, int most, int *found, struct perf *p) { return first(found, p); }
int cudnnCreateTensorDescriptor(void **made) { return give(made, 64, "cudnnCreateTensorDescriptor"); }
int cudnnCreateFilterDescriptor(void **made) { return give(made, 64, "cudnnCreateFilterDescriptor"); }
int cudnnCreateConvolutionDescriptor(void **made) { return give(made, 64, "cudnnCreateConvolutionDescriptor"); }
int cudnnCreate(void **made) { return give(made, 64, "cudnnCreate"); }
int cudnnSetStream(void *handle, void *stream) { return 0; }
int cudnnSetTensor4dDescriptor(void *d, int f, int t, int n, int c, int h, int w) { return 0; }
int cudnnSetFilter4dDescriptor(void *d, int f, int t, int n, int c, int h, int w) { return 0; }
int cudnnSetConvolution2dDescriptor(void *d, int a, int b, int c) { return 0; }
int cudnnSetConvolutionMathType(void *d, int math) { return 0; }
int cudnnConvolutionForward(void *handle) { return 0; }
int cudnnConvolutionBackwardData(void *handle) { return 0; }
int cudnnConvolutionBackwardFilter(void *handle) { return 0; }

const char *nvrtcGetErrorString(int code) { return "NVRTC_ERROR_OF_A_STAND_IN"; }
int nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, 0; }
int nvrtcGetNumSupportedArchs(int *n) { return *n = 1, 0; }
int nvrtcGetSupportedArchs(int *list) { return *list = 90, 0; }
int nvrtcCreateProgram(void **made, const char *source) { return give(made, 64, "nvrtcCreateProgram"); }
int nvrtcCompileProgram(void *program, int count, const char **options) { return 0; }
int nvrtcDestroyProgram(void **program) { return free(*program), 0; }
int nvrtcGetProgramLogSize(void *program, size_t *size) { return *size = 1, 0; }
int nvrtcGetProgramLog(void *program, char *text) { return *text = 0, 0; }
int nvrtcGetCUBINSize(void *program, size_t *size) { return *size = 64, 0; }
int nvrtcGetCUBIN(void *program, char *code) { return memset(code, 1, 64), 0; }
