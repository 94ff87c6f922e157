// The kernels for x86-64 with AMX on Linux: scores by tiles of bf16, all else as with AVX-512.
#include "attention.h"

#if defined(AVCL_HAS_AMX)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("amx-tile,amx-bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif

#define AVCL_ISA isa_amx
#define AVCL_NAME "amx"
#define AVCL_BYTES 64
#define AVCL_ROWS 12
#define AVCL_TILES
#include "kernel.h"

const avcl::Kernels& avcl::amx() { return isa_amx::kernels; }

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
