// Column means of a softmax and correlation for one instruction set. Included once for each of them, with
//   AVCL_ISA    the namespace, AVCL_NAME its name
//   AVCL_BYTES  of a vector, AVCL_ROWS  of queries that one tile of registers holds
// A tile's scores over all keys fit into the cache: one pass, and no map is ever written to memory.
// Nothing here may come from a header: an inline function compiled for this set must not be shared with others.

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

// Scores of AVCL_ROWS queries, (depth, AVCL_ROWS), and one panel of keys, (depth, kPanel), into rows of `scores`.
template <typename T>
inline void tile(const T* query, const T* key, int64_t depth, T* scores, int64_t pitch) {
  constexpr int kW = kWidth<T>;
  V<T> left[AVCL_ROWS] = {}, right[AVCL_ROWS] = {};
  for (int64_t k = 0; k < depth; ++k, query += AVCL_ROWS, key += 2 * kW) {
    const V<T> a = at(key), b = at(key + kW);
    AVCL_UNROLL for (int r = 0; r < AVCL_ROWS; ++r) {
      const V<T> q = splat(query[r]);
      left[r] = mul_add(q, a, left[r]);
      right[r] = mul_add(q, b, right[r]);
    }
  }
  AVCL_UNROLL for (int r = 0; r < AVCL_ROWS; ++r) {
    at(scores + r * pitch) = left[r];
    at(scores + r * pitch + kW) = right[r];
  }
}

// Scores to exp2(score - largest); returns 1 / their sum.
template <typename T>
inline T soften(T* scores, int64_t pitch) {
  constexpr int kW = kWidth<T>;
  V<T> top0 = at(scores), top1 = at(scores + kW);
  for (int64_t j = 2 * kW; j < pitch; j += 2 * kW) {
    const V<T> a = at(scores + j), b = at(scores + j + kW);
    top0 = a > top0 ? a : top0;
    top1 = b > top1 ? b : top1;
  }
  const V<T> top = splat(largest<T>(top0 > top1 ? top0 : top1));
  V<T> total0 = {}, total1 = {};
  for (int64_t j = 0; j < pitch; j += 2 * kW) {
    const V<T> a = exp2<T>(at(scores + j) - top), b = exp2<T>(at(scores + j + kW) - top);
    at(scores + j) = a;
    at(scores + j + kW) = b;
    total0 += a;
    total1 += b;
  }
  return T{1} / sum<T>(total0 + total1);
}

template <typename T>
void importance(const Heads& query, const Heads& key, const Split& split, int64_t clip, int64_t group, int64_t depth,
                T scale, T* scratch, T* sums) {
  constexpr int kW = kWidth<T>, kP = kPanel<T>;
  const int64_t keys = key.length, pitch = padded(keys, kP);
  T *keys_packed = scratch, *scores = keys_packed + pitch * depth, *queries = scores + pitch * AVCL_ROWS;
  for (int64_t j = 0; j < pitch; j += kW) at(sums + j) = V<T>{};
  const int64_t first = group * split.per_group;
  const int64_t last = first + split.per_group < split.units ? first + split.per_group : split.units;
  for (int64_t unit = first, packed = -1; unit < last; ++unit) {
    const int64_t head = unit / split.blocks, start = unit % split.blocks * Split::kRows;
    const int64_t end = start + Split::kRows < query.length ? start + Split::kRows : query.length;
    if (packed != head) {
      for (int64_t j = 0; j < pitch; ++j) {
        T* column = keys_packed + j / kP * kP * depth + j % kP;
        prefetch(key, clip, head, j + kAhead, depth);
        if (j < keys)
          read<T>(key, clip, head, j, depth, column, kP, 1);
        else
          for (int64_t k = 0; k < depth; ++k) column[k * kP] = 0;
      }
      packed = head;
    }
    for (int64_t row = start; row < end; row += AVCL_ROWS) {
      const int rows = end - row < AVCL_ROWS ? static_cast<int>(end - row) : AVCL_ROWS;
      for (int r = 0; r < AVCL_ROWS; ++r) {
        prefetch(query, clip, head, row + AVCL_ROWS + r, depth);
        if (r < rows)
          read<T>(query, clip, head, row + r, depth, queries + r, AVCL_ROWS, scale);
        else
          for (int64_t k = 0; k < depth; ++k) queries[k * AVCL_ROWS + r] = 0;
      }
      for (int64_t j = 0; j < pitch; j += kP) tile<T>(queries, keys_packed + j * depth, depth, scores + j, pitch);
      T share[AVCL_ROWS];
      for (int r = 0; r < rows; ++r) {
        for (int64_t j = keys; j < pitch; ++j) scores[r * pitch + j] = -__builtin_inf();
        share[r] = soften<T>(scores + r * pitch, pitch);
      }
      for (int64_t j = 0; j < pitch; j += kW) {
        V<T> column = at(sums + j);
        for (int r = 0; r < rows; ++r) column = mul_add(at(scores + r * pitch + j), splat(share[r]), column);
        at(sums + j) = column;
      }
    }
  }
}

template <typename T>
void correlation(const Heads& key, const Heads& past, const Heads& now, int64_t clip, int64_t heads, int64_t depth,
                 const int64_t* top, int64_t top_stride, int64_t tops, T scale, T* scratch, T* out) {
  constexpr int kW = kWidth<T>;
  const int64_t pitch = padded(depth, kW), head_pitch = padded(heads, kW);
  T *difference = scratch, *row = difference + heads * pitch, *drift = row + pitch;
  for (int64_t i = 0; i < heads * pitch + pitch + head_pitch; ++i) scratch[i] = 0;
  for (int64_t head = 0; head < heads; ++head) {
    read<T>(now, clip, head, 0, depth, difference + head * pitch, 1, 1);
    read<T>(past, clip, head, 0, depth, row, 1, 1);
    // downwards: exp2(-x) is what the logistic function needs
    for (int64_t k = 0; k < depth; ++k) difference[head * pitch + k] = (difference[head * pitch + k] - row[k]) * scale;
  }
  for (int64_t t = 0; t < tops; ++t) {
    const int64_t j = top[t * top_stride];
    for (int64_t head = 0; head < heads; ++head) {
      read<T>(key, clip, head, j, depth, row, 1, 1);
      V<T> total = {};
      for (int64_t k = 0; k < pitch; k += kW) total = mul_add(at(row + k), at(difference + head * pitch + k), total);
      drift[head] = sum<T>(total);
    }
    T share = 0;
    for (int64_t head = 0; head < heads; head += kW) {
      const V<T> x = at(drift + head), most = splat(-Lanes<T>::kLowest);
      const V<T> part = splat(T{1}) / (splat(T{1}) + exp2<T>(x > most ? most : x));
      for (int lane = 0; lane < kW && head + lane < heads; ++lane) share += part[lane];
    }
    out[j] = share / static_cast<T>(heads);
  }
}

size_t scratch(int64_t keys, int64_t depth, bool wide) {
  const int64_t panel = wide ? kPanel<double> : kPanel<float>;
  return (padded(keys, panel) * (depth + AVCL_ROWS) + depth * AVCL_ROWS) * (wide ? sizeof(double) : sizeof(float));
}

const Kernels kernels = {
    AVCL_NAME,
    kPanel<float>,
    scratch,
    [](const Heads& query, const Heads& key, const Split& split, int64_t clip, int64_t group, int64_t depth,
       double scale, bool wide, void* scratch, void* sums) {
      if (wide)
        importance<double>(query, key, split, clip, group, depth, scale, static_cast<double*>(scratch),
                           static_cast<double*>(sums));
      else
        importance<float>(query, key, split, clip, group, depth, static_cast<float>(scale),
                          static_cast<float*>(scratch), static_cast<float*>(sums));
    },
    [](const Heads& key, const Heads& past, const Heads& now, int64_t clip, int64_t heads, int64_t depth,
       const int64_t* top, int64_t top_stride, int64_t tops, double scale, bool wide, void* scratch, void* out) {
      if (wide)
        correlation<double>(key, past, now, clip, heads, depth, top, top_stride, tops, scale,
                            static_cast<double*>(scratch), static_cast<double*>(out));
      else
        correlation<float>(key, past, now, clip, heads, depth, top, top_stride, tops, static_cast<float>(scale),
                           static_cast<float*>(scratch), static_cast<float*>(out));
    },
};

}  // namespace avcl::AVCL_ISA
