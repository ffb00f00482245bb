// cuDNN as far as cudnn/library.ts calls it, in float32 on the CPU, one product after the other: so that what a call is told is seen to be
// what the convolution is. It refuses what the real one would misread: a call outside a context, a workspace too small, sizes that do not fit.
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct Tensor {
  int layout, dtype, n, c, h, w;
};
struct Window {
  int pad[2], stride[2], dilation[2], mode, compute, math;
};
struct Perf {
  int algorithm, status;
  float time;
  size_t memory;
  int determinism, math, reserved[3];
};
static int handles = 0, calls = 0;
static const int BAD_PARAM = 3, NOT_SUPPORTED = 9, NHWC = 1, FLOAT = 0, ALGORITHM = 1;
static const size_t WORKSPACE = 4096;

static long at(const Tensor* t, int n, int h, int w, int c) { return (((long)n * t->h + h) * t->w + w) * t->c + c; }

static bool fits(const Tensor* x, const Tensor* w, const Tensor* y, const Window* o) {
  const int in[] = {x->h, x->w}, kernel[] = {w->h, w->w}, out[] = {y->h, y->w};
  for (int i = 0; i < 2; i++)
    if (out[i] != (in[i] + 2 * o->pad[i] - o->dilation[i] * (kernel[i] - 1) - 1) / o->stride[i] + 1) return false;
  const bool typed = x->dtype == FLOAT && w->dtype == FLOAT && y->dtype == FLOAT && o->compute == FLOAT && o->mode == 1;
  const bool last = x->layout == NHWC && w->layout == NHWC && y->layout == NHWC;
  return typed && last && x->n == y->n && x->c == w->c && y->c == w->n;
}

// Calls each product's places: of x, of the filters, of y.
template <typename F>
static void each(const Tensor* x, const Tensor* w, const Tensor* y, const Window* o, F product) {
  for (int n = 0; n < y->n; n++)
    for (int i = 0; i < y->h; i++)
      for (int j = 0; j < y->w; j++)
        for (int k = 0; k < y->c; k++)
          for (int r = 0; r < w->h; r++)
            for (int s = 0; s < w->w; s++) {
              const int row = i * o->stride[0] + r * o->dilation[0] - o->pad[0], column = j * o->stride[1] + s * o->dilation[1] - o->pad[1];
              if (row < 0 || column < 0 || row >= x->h || column >= x->w) continue;
              for (int c = 0; c < x->c; c++) product(at(x, n, row, column, c), at(w, k, r, s, c), at(y, n, i, j, k));
            }
}

static int answer(const Tensor* x, const Tensor* w, const Tensor* y, const Window* o, int count, int* found, Perf* perf) {
  if (!fits(x, w, y, o)) return BAD_PARAM;
  if (count < 3) return BAD_PARAM;
  // The first has another result each time, the second is not there, so the third is to be taken.
  memset(perf, 0, 3 * sizeof(Perf));
  perf[0] = {0, 0, 1.0f, 0, 0, o->math, {}};
  perf[1] = {2, NOT_SUPPORTED, -1.0f, 0, 1, o->math, {}};
  perf[2] = {ALGORITHM, 0, 2.0f, WORKSPACE, 1, o->math, {}};
  *found = 3;
  return 0;
}

static int refuses(void* handle, const float* one, const float* zero, int algorithm, void* workspace, size_t bytes, bool fit) {
  calls++;
  const bool right = handle == &handles && *one == 1.0f && *zero == 0.0f && algorithm == ALGORITHM && workspace != nullptr && bytes == WORKSPACE && fit;
  if (right) memset(workspace, 0xff, bytes);
  return right ? 0 : BAD_PARAM;
}

extern "C" {
int emulatedConvolutions() { return calls; }
const char* cudnnGetErrorString(int status) { return status == NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_BAD_PARAM"; }
size_t cudnnGetVersion() { return 91900; }
int cudnnCreate(void** handle) {
  *handle = &handles;
  return 0;
}
int cudnnSetStream(void* handle, void* stream) { return handle == &handles && stream == nullptr ? 0 : BAD_PARAM; }
int cudnnCreateTensorDescriptor(void** made) { return (*made = calloc(1, sizeof(Tensor))) == nullptr; }
int cudnnCreateFilterDescriptor(void** made) { return (*made = calloc(1, sizeof(Tensor))) == nullptr; }
int cudnnCreateConvolutionDescriptor(void** made) { return (*made = calloc(1, sizeof(Window))) == nullptr; }
int cudnnSetTensor4dDescriptor(Tensor* t, int layout, int dtype, int n, int c, int h, int w) {
  *t = {layout, dtype, n, c, h, w};
  return 0;
}
int cudnnSetFilter4dDescriptor(Tensor* t, int dtype, int layout, int n, int c, int h, int w) {
  *t = {layout, dtype, n, c, h, w};
  return 0;
}
int cudnnSetConvolution2dDescriptor(Window* o, int ph, int pw, int sh, int sw, int dh, int dw, int mode, int compute) {
  *o = {{ph, pw}, {sh, sw}, {dh, dw}, mode, compute, -1};
  return 0;
}
int cudnnSetConvolutionMathType(Window* o, int math) {
  o->math = math;
  return 0;
}
int cudnnGetConvolutionForwardAlgorithm_v7(void*, Tensor* x, Tensor* w, Window* o, Tensor* y, int count, int* found, Perf* perf) {
  return answer(x, w, y, o, count, found, perf);
}
int cudnnGetConvolutionBackwardDataAlgorithm_v7(void*, Tensor* w, Tensor* y, Window* o, Tensor* x, int count, int* found, Perf* perf) {
  return answer(x, w, y, o, count, found, perf);
}
int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void*, Tensor* x, Tensor* y, Window* o, Tensor* w, int count, int* found, Perf* perf) {
  return answer(x, w, y, o, count, found, perf);
}
int cudnnConvolutionForward(void* handle, const float* one, Tensor* x, const float* from, Tensor* w, const float* filters, Window* o, int algorithm,
                            void* workspace, size_t bytes, const float* zero, Tensor* y, float* to) {
  if (int code = refuses(handle, one, zero, algorithm, workspace, bytes, fits(x, w, y, o))) return code;
  memset(to, 0, sizeof(float) * y->n * y->c * y->h * y->w);
  each(x, w, y, o, [&](long a, long b, long c) { to[c] += from[a] * filters[b]; });
  return 0;
}
int cudnnConvolutionBackwardData(void* handle, const float* one, Tensor* w, const float* filters, Tensor* y, const float* from, Window* o, int algorithm,
                                 void* workspace, size_t bytes, const float* zero, Tensor* x, float* to) {
  if (int code = refuses(handle, one, zero, algorithm, workspace, bytes, fits(x, w, y, o))) return code;
  memset(to, 0, sizeof(float) * x->n * x->c * x->h * x->w);
  each(x, w, y, o, [&](long a, long b, long c) { to[a] += from[c] * filters[b]; });
  return 0;
}
int cudnnConvolutionBackwardFilter(void* handle, const float* one, Tensor* x, const float* images, Tensor* y, const float* from, Window* o,
                                   int algorithm, void* workspace, size_t bytes, const float* zero, Tensor* w, float* to) {
  if (int code = refuses(handle, one, zero, algorithm, workspace, bytes, fits(x, w, y, o))) return code;
  memset(to, 0, sizeof(float) * w->n * w->c * w->h * w->w);
  each(x, w, y, o, [&](long a, long b, long c) { to[b] += images[a] * from[c]; });
  return 0;
}
}
