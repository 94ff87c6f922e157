// The kernels for x86-64 with AVX-512: vectors of 64 bytes.
#include "attention.h"

#if defined(__x86_64__)
#include <immintrin.h>

AVCL_TARGET("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#define AVCL_ISA avx512_set
#define AVCL_NAME "avx512"
#define AVCL_BYTES 64
#define AVCL_ROWS 12
#define AVCL_FMA(type) _mm512_fmadd_##type
#include "kernel.h"

const avcl::Kernels& avcl::avx512() { return avx512_set::kernels; }
AVCL_TARGET_END
#endif
