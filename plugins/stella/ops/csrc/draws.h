// Random numbers by counting, for host and device: a draw is a function of (seed, use, clip index, column).
//
// Selected patches must be the same on every machine, so everything here is integer arithmetic or single IEEE
// operations + * / in double: no libm, no contraction (-ffp-contract=off; the _rn functions on the device).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__) || defined(AVCL_EMULATION)
#define AVCL_BOTH __host__ __device__
#else
#define AVCL_BOTH
#endif

namespace avcl {

constexpr double kHardlyEver = 0x1p-300;  // patches without importance
constexpr double kNever = 0x1p-900;       // pruned patches: stand-ins for 0, without a branch
constexpr int64_t kUseAudio = 3, kUseCut = 4;  // philox.Use, where an op fixes it

#if defined(__CUDA_ARCH__)
__device__ inline double times(double a, double b) { return __dmul_rn(a, b); }
__device__ inline double plus(double a, double b) { return __dadd_rn(a, b); }
__device__ inline double over(double a, double b) { return __ddiv_rn(a, b); }
#else
AVCL_BOTH inline double times(double a, double b) { return a * b; }
AVCL_BOTH inline double plus(double a, double b) { return a + b; }
AVCL_BOTH inline double over(double a, double b) { return a / b; }
#endif

AVCL_BOTH inline double from_bits(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

AVCL_BOTH inline uint64_t to_bits(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The first of the four words of Philox4x32-10 (Salmon et al. 2011).
AVCL_BOTH inline uint32_t word(uint64_t seed, uint64_t use, uint64_t index, uint32_t column) {
  uint32_t a = column, b = static_cast<uint32_t>(index);
  uint32_t c = static_cast<uint32_t>(index >> 32), d = static_cast<uint32_t>(use);
  uint32_t left = static_cast<uint32_t>(seed), right = static_cast<uint32_t>(seed >> 32);
  for (int turn = 0; turn < 10; ++turn) {
    const uint64_t first = uint64_t{0xD2511F53} * a, second = uint64_t{0xCD9E8D57} * c;
    a = static_cast<uint32_t>(second >> 32) ^ b ^ left;
    b = static_cast<uint32_t>(second);
    c = static_cast<uint32_t>(first >> 32) ^ d ^ right;
    d = static_cast<uint32_t>(first);
    left += 0x9E3779B9;
    right += 0xBB67AE85;
  }
  return a;
}

// -log of the uniform number (word + 1/2) / 2^32: exponent, and the series of the inverse hyperbolic tangent.
AVCL_BOTH inline double exponential(uint32_t word) {
  const double odd = from_bits(0x4330000000000000 | (2 * uint64_t{word} + 1)) - 0x1p52;
  const uint64_t bits = to_bits(odd);
  double mantissa = from_bits((bits & 0x000FFFFFFFFFFFFF) | 0x3FE0000000000000);  // in [1/2, 1)
  const bool small = mantissa < 0.7071067811865476;
  mantissa = times(mantissa, small ? 2.0 : 1.0);
  const double exponent = static_cast<double>(static_cast<int32_t>(bits >> 52) - 1022 - (small ? 1 : 0));
  const double ratio = over(plus(mantissa, -1.0), plus(mantissa, 1.0)), square = times(ratio, ratio);
  double series = 1.0 / 21;
  series = plus(times(series, square), 1.0 / 19);
  series = plus(times(series, square), 1.0 / 17);
  series = plus(times(series, square), 1.0 / 15);
  series = plus(times(series, square), 1.0 / 13);
  series = plus(times(series, square), 1.0 / 11);
  series = plus(times(series, square), 1.0 / 9);
  series = plus(times(series, square), 1.0 / 7);
  series = plus(times(series, square), 1.0 / 5);
  series = plus(times(series, square), 1.0 / 3);
  series = plus(times(series, square), 1.0);
  return plus(times(plus(33.0, -exponent), 0.6931471805599453), -times(times(2.0, ratio), series));
}

// When a column arrives in the exponential race; the bits of positive numbers are in their order.
AVCL_BOTH inline uint64_t arrival(uint32_t word, double weight) {
  return to_bits(over(exponential(word), weight > kNever ? weight : kNever));
}

// What a patch weighs in the race between single patches.
AVCL_BOTH inline double patch_weight(double importance, bool pruned) {
  return pruned ? 0.0 : plus(importance, kHardlyEver);
}

// Half the smallest power of two that is not below `count`: where the sum over a chunk is folded first.
AVCL_BOTH inline int64_t first_fold(int64_t count) {
  int64_t half = 1;
  while (2 * half < count) half *= 2;
  return half;
}

// Whether the chunk of this rank loses patches at its head, were it cut: only the next one ranks before it.
// `before` and `after` are the neighbours' ranks, or any number that is not below `rank` beyond the ends.
AVCL_BOTH inline bool drops_head(int64_t before, int64_t rank, int64_t after, uint32_t coin) {
  const bool left = before < rank, right = after < rank;
  return left == right ? coin < 0x80000000u : right;
}

}  // namespace avcl
