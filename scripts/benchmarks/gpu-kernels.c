// Writes a line for each kernel, copy and fill of a process on an NVIDIA GPU, those of CUDA graphs too: a library that CUDA loads by
// itself where CUDA_INJECTION64_PATH names it. gpu.py builds it and adds up what it writes.
//
//   cc -O2 -shared -fPIC gpu-kernels.c -I CUDA/include -I CUDA/extras/CUPTI/include -L … -lcupti -o gpu-kernels.so
//   CUDA_INJECTION64_PATH=$PWD/gpu-kernels.so GPU_KERNELS=kernels.tsv PROGRAM
//
// Columns: start and duration in ns, grid (blocks), threads of a block, name.
#include <cupti.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static FILE* out;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void CUPTIAPI give(uint8_t** buffer, size_t* size, size_t* records) {
  *size = 8 << 20;
  *buffer = aligned_alloc(8, *size);
  *records = 0;
}

static void line(uint64_t start, uint64_t end, long long blocks, int threads, const char* name) {
  fprintf(out, "%llu\t%llu\t%lld\t%d\t%s\n", (unsigned long long)start, (unsigned long long)(end - start), blocks, threads, name);
}

static void CUPTIAPI take(CUcontext context, uint32_t stream, uint8_t* buffer, size_t size, size_t valid) {
  (void)context, (void)stream, (void)size;
  CUpti_Activity* record = NULL;
  pthread_mutex_lock(&lock);
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const CUpti_ActivityKernel9* k = (const CUpti_ActivityKernel9*)record;
      line(k->start, k->end, (long long)k->gridX * k->gridY * k->gridZ, k->blockX * k->blockY * k->blockZ, k->name);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const CUpti_ActivityMemcpy5* k = (const CUpti_ActivityMemcpy5*)record;
      line(k->start, k->end, 0, 0, k->copyKind == 1 ? "copy to the device" : k->copyKind == 2 ? "copy to the host" : "copy on the device");
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const CUpti_ActivityMemset4* k = (const CUpti_ActivityMemset4*)record;
      line(k->start, k->end, 0, 0, "fill");
    }
  }
  fflush(out);
  pthread_mutex_unlock(&lock);
  free(buffer);
}

static void finish(void) {
  cuptiActivityFlushAll(1);
  fflush(out);
}

int InitializeInjection(void) {
  const char* path = getenv("GPU_KERNELS");
  out = fopen(path ? path : "gpu-kernels.tsv", "w");
  if (out == NULL) return 0;
  cuptiActivityRegisterCallbacks(give, take);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET);
  cuptiActivityFlushPeriod(500);
  atexit(finish);
  return 1;
}
