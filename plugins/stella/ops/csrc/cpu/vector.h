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
template <typename T>
constexpr int kPanel = 2 * kWidth<T>;  // keys that one tile of registers holds
constexpr int kAhead = 32;

template <typename T>
inline V<T>& at(T* data) {
  return *reinterpret_cast<V<T>*>(data);
}
template <typename T>
inline const V<T>& at(const T* data) {
  return *reinterpret_cast<const V<T>*>(data);
}

inline V<float> splat(float x) { return x - V<float>{}; }  // x + 0 would not be x for -0
inline V<double> splat(double x) { return x - V<double>{}; }

// a * b + c; elsewhere contraction is off
#ifdef AVCL_FMA
inline V<float> mul_add(V<float> a, V<float> b, V<float> c) { return AVCL_FMA(ps)(a, b, c); }
inline V<double> mul_add(V<double> a, V<double> b, V<double> c) { return AVCL_FMA(pd)(a, b, c); }
#else
template <typename W>
inline W mul_add(W a, W b, W c) {
  return a * b + c;
}
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

inline float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline float number(float x) { return x; }
inline double number(double x) { return x; }
inline float number(BFloat16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }
inline float number(Half x) {
  const uint32_t size = static_cast<uint32_t>(x.bits & 0x7FFF) << 13, sign = static_cast<uint32_t>(x.bits >> 15) << 31;
  const float value = size < 0x0F800000 ? from_bits(size) * 0x1p112f : from_bits(size | 0x7F800000);  // inf and NaN
  return sign ? -value : value;
}

// One row (d,) of one head, times `scale`, with `stride` between its numbers.
template <typename T>
inline void read(const Heads& x, int64_t clip, int64_t head, int64_t row, int64_t depth, T* to, int64_t stride,
                 T scale) {
  const auto widen = [&](const auto* from) {
    from += clip * x.clip + head * x.head + row * x.row;
    if (x.column == 1)  // most often, and faster when the compiler knows
      for (int64_t i = 0; i < depth; ++i) to[i * stride] = static_cast<T>(number(from[i])) * scale;
    else
      for (int64_t i = 0; i < depth; ++i) to[i * stride] = static_cast<T>(number(from[i * x.column])) * scale;
  };
  switch (x.type) {
    case Type::kFloat: return widen(static_cast<const float*>(x.data));
    case Type::kDouble: return widen(static_cast<const double*>(x.data));
    case Type::kBFloat16: return widen(static_cast<const BFloat16*>(x.data));
    case Type::kHalf: return widen(static_cast<const Half*>(x.data));
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

}  // namespace avcl::AVCL_ISA
