// The kernels for x86-64 with AVX2 and FMA: vectors of 32 bytes.
#include "attention.h"

#if defined(__x86_64__)
#include <immintrin.h>

AVCL_TARGET("avx2,fma")
#define AVCL_ISA avx2_set
#define AVCL_NAME "avx2"
#define AVCL_BYTES 32
#define AVCL_ROWS 6
#define AVCL_FMA(type) _mm256_fmadd_##type
#include "kernel.h"

const avcl::Kernels& avcl::avx2() { return avx2_set::kernels; }
AVCL_TARGET_END
#endif
