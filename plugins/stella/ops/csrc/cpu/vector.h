// Vectors of one instruction set: their arithmetic, powers of 2, and reading numbers of any type. Included by kernel.h.

#define AVCL_UNROLL _Pragma("GCC unroll 16")

namespace avcl::AVCL_ISA {

template <typename T>
struct Lanes;

template <>
struct Lanes<float> {
  typedef float V __attribute__((vector_size(AVCL_BYTES), may_alias));
  typedef uint32_t U __attribute__((vector_size(AVCL_BYTES), may_alias));
  static constexpr int kMantissa = 23, kDegree = 7;
  static constexpr float kRound = 0x1.8p23f, kLowest = -126;
};

template <>
struct Lanes<double> {
  typedef double V __attribute__((vector_size(AVCL_BYTES), may_alias));
  typedef uint64_t U __attribute__((vector_size(AVCL_BYTES), may_alias));
  static constexpr int kMantissa = 52, kDegree = 13;
  static constexpr double kRound = 0x1.8p52, kLowest = -1022;
};

template <typename T>
using V = typename Lanes<T>::V;
template <typename T>
constexpr int kWidth = AVCL_BYTES / sizeof(T);
constexpr int kAhead = 32;
template <typename T>
constexpr int kPanel = 2 * kWidth<T>;  // keys that one tile of registers holds

template <typename T>
inline V<T>& at(T* data) {
  return *reinterpret_cast<V<T>*>(data);
}
template <typename T>
inline const V<T>& at(const T* data) {
  return *reinterpret_cast<const V<T>*>(data);
}

// splat(x) and mul_add(a, b, c) = a * b + c; elsewhere contraction is off
#if AVCL_BYTES == 64
inline __m512 splat(float x) { return _mm512_set1_ps(x); }
inline __m512d splat(double x) { return _mm512_set1_pd(x); }
inline __m512 mul_add(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
inline __m512d mul_add(__m512d a, __m512d b, __m512d c) { return _mm512_fmadd_pd(a, b, c); }
#elif AVCL_BYTES == 32
inline __m256 splat(float x) { return _mm256_set1_ps(x); }
inline __m256d splat(double x) { return _mm256_set1_pd(x); }
inline __m256 mul_add(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
inline __m256d mul_add(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
#else
inline V<float> splat(float x) { return V<float>{} + x; }
inline V<double> splat(double x) { return V<double>{} + x; }
inline V<float> mul_add(V<float> a, V<float> b, V<float> c) { return a * b + c; }
inline V<double> mul_add(V<double> a, V<double> b, V<double> c) { return a * b + c; }
#endif

// ln(2)^k / k!: the Taylor series of 2^x, below the rounding error for |x| <= 1/2.
template <typename T>
struct Series {
  T c[Lanes<T>::kDegree + 1];
  constexpr Series() : c() {
    long double term = 1;
    for (int k = 0; k <= Lanes<T>::kDegree; ++k) {
      c[k] = static_cast<T>(term);
      term *= 0.693147180559945309417232121458176568L / (k + 1);
    }
  }
};

// 2^x for x below 127; 0 where that would be a denormal, NaN for NaN.
template <typename T>
inline V<T> exp2(V<T> x) {
  typedef typename Lanes<T>::U U;
  constexpr Series<T> series;
  const V<T> round = splat(Lanes<T>::kRound), shifted = x + round, rest = x - (shifted - round);
  V<T> power = splat(series.c[Lanes<T>::kDegree]);
  AVCL_UNROLL for (int k = Lanes<T>::kDegree - 1; k >= 0; --k) power = mul_add(power, rest, splat(series.c[k]));
  power = (V<T>)((U)power + ((U)shifted << Lanes<T>::kMantissa));
  power = x < splat(Lanes<T>::kLowest) ? V<T>{} : power;
  return x == x ? power : x;
}

#if AVCL_BYTES == 64
// The same for float by what this set has for it: rest above the whole number, minimax polynomial (2^-28), power.
template <>
inline V<float> exp2<float>(V<float> x) {
  constexpr float kSeries[] = {0x1p0f,        0x1.62e42cp-1f, 0x1.ebfd58p-3f, 0x1.c68912p-5f,
                               0x1.3d0b92p-7f, 0x1.46d64ep-10f, 0x1.c54174p-13f};
  const __m512 rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
  __m512 power = _mm512_set1_ps(kSeries[6]);
  AVCL_UNROLL for (int k = 5; k >= 0; --k) power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(kSeries[k]));
  const __mmask16 seen = _mm512_cmp_ps_mask(x, _mm512_set1_ps(Lanes<float>::kLowest), _CMP_NLT_UQ);  // NaN too
  return _mm512_maskz_scalef_ps(seen, power, x);
}
#endif

template <typename T>
inline T sum(V<T> v) {
  T total = v[0];
  for (int lane = 1; lane < kWidth<T>; ++lane) total += v[lane];
  return total;
}

template <typename T>
inline T largest(V<T> v) {
  T top = v[0];
  for (int lane = 1; lane < kWidth<T>; ++lane) top = v[lane] > top ? v[lane] : top;
  return top;
}

#if AVCL_BYTES == 64
constexpr Lanes<float>::U kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// The same for float without leaving the register: each lane with the one that is 8, 4, 2, 1 further, around.
template <>
inline float sum<float>(V<float> v) {
  AVCL_UNROLL for (uint32_t step = 8; step; step /= 2) v += _mm512_permutex2var_ps(v, (__m512i)(kLane + step), v);
  return v[0];
}

template <>
inline float largest<float>(V<float> v) {
  AVCL_UNROLL for (uint32_t step = 8; step; step /= 2) {
    const V<float> other = _mm512_permutex2var_ps(v, (__m512i)(kLane + step), v);
    v = other > v ? other : v;
  }
  return v[0];
}
#endif

inline float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

inline float number(float x) { return x; }
inline double number(double x) { return x; }

struct BFloat16 {
  uint16_t bits;
};
inline float number(BFloat16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }

struct Half {
  uint16_t bits;
};
inline float number(Half x) {
  const uint32_t size = static_cast<uint32_t>(x.bits & 0x7FFF) << 13, sign = static_cast<uint32_t>(x.bits >> 15) << 31;
  const float value = size < 0x0F800000 ? from_bits(size) * 0x1p112f : from_bits(size | 0x7F800000);  // inf and NaN
  return sign ? -value : value;
}

// Numbers of one row, `stride` apart, times `scale`, to places `to_stride` apart.
template <typename T, typename From>
inline void widen(const From* from, int64_t stride, int64_t count, T* to, int64_t to_stride, T scale) {
  if (stride == 1)  // most often, and faster when the compiler knows
    for (int64_t i = 0; i < count; ++i) to[i * to_stride] = static_cast<T>(number(from[i])) * scale;
  else
    for (int64_t i = 0; i < count; ++i) to[i * to_stride] = static_cast<T>(number(from[i * stride])) * scale;
}

// One row (d,) of one head, times `scale`, with `stride` between its numbers.
template <typename T>
inline void read(const Heads& x, int64_t clip, int64_t head, int64_t row, int64_t depth, T* to, int64_t stride,
                 T scale) {
  const int64_t start = clip * x.clip + head * x.head + row * x.row;
  const auto from = [&](auto* data) { widen(data + start, x.column, depth, to, stride, scale); };
  switch (x.type) {
    case Type::kFloat: return from(static_cast<const float*>(x.data));
    case Type::kDouble: return from(static_cast<const double*>(x.data));
    case Type::kBFloat16: return from(static_cast<const BFloat16*>(x.data));
    case Type::kHalf: return from(static_cast<const Half*>(x.data));
  }
}

// Rows of one head lie far apart, where no processor expects the next one.
// Always inlined: GCC drops calls of a function that does nothing else.
__attribute__((always_inline)) inline void prefetch(const Heads& x, int64_t clip, int64_t head, int64_t row,
                                                    int64_t depth) {
  if (row >= x.length) return;
  const int64_t size = x.type == Type::kDouble ? 8 : x.type == Type::kFloat ? 4 : 2;
  const char* from = static_cast<const char*>(x.data) + (clip * x.clip + head * x.head + row * x.row) * size;
  for (int64_t at = 0; at < depth * x.column * size; at += 64) __builtin_prefetch(from + at);
}

constexpr int64_t padded(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

}  // namespace avcl::AVCL_ISA
