// The kernels for x86-64 with AVX-512: vectors of 64 bytes.
#include "attention.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif

#define AVCL_ISA isa_avx512
#define AVCL_NAME "avx512"
#define AVCL_BYTES 64
#define AVCL_ROWS 12
#include "kernel.h"

const avcl::Kernels& avcl::avx512() { return isa_avx512::kernels; }

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
