// The kernels for x86-64 with AVX2 and FMA: vectors of 32 bytes.
#include "attention.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define AVCL_ISA isa_avx2
#define AVCL_NAME "avx2"
#define AVCL_BYTES 32
#define AVCL_ROWS 6
#include "kernel.h"

const avcl::Kernels& avcl::avx2() { return isa_avx2::kernels; }

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
