// Column means of a softmax for one instruction set. Included once for each of them, with
//   AVCL_ISA    the namespace, AVCL_NAME  its name
//   AVCL_BYTES  of a vector, AVCL_ROWS  of queries that one tile of registers holds
//   AVCL_FMA    of its intrinsics, where it has one
// The scores of a tile of queries over all keys fit into the cache: one pass, and no map is ever written to memory.
// Nothing here may come from a header: an inline function compiled for this set must not be shared with others.
#include "vector.h"

namespace avcl::AVCL_ISA {

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

// `count` rows of one head from `row` on, times `scale`, next to each other: (depth, width), zeros for the missing.
template <typename T>
inline void pack(const Heads& x, int64_t clip, int64_t head, int64_t row, int64_t count, int width, int64_t depth,
                 T scale, T* packed) {
  for (int64_t r = 0; r < width; ++r) {
    prefetch(x, clip, head, row + kAhead + r, depth);
    if (r < count)
      read<T>(x, clip, head, row + r, depth, packed + r, width, scale);
    else
      for (int64_t k = 0; k < depth; ++k) packed[k * width + r] = 0;
  }
}

// Of one row of scores, 2^(score - largest); returns 1 / their sum.
template <typename T>
inline T soften(T* scores, int64_t pitch) {
  constexpr int kW = kWidth<T>;
  V<T> top = at(scores);
  for (int64_t j = kW; j < pitch; j += kW) top = at(scores + j) > top ? at(scores + j) : top;
  const V<T> most = splat(largest<T>(top));
  V<T> left = {}, right = {};
  for (int64_t j = 0; j < pitch; j += 2 * kW) {
    left += at(scores + j) = exp2<T>(at(scores + j) - most);
    right += at(scores + j + kW) = exp2<T>(at(scores + j + kW) - most);
  }
  return T{1} / sum<T>(left + right);
}

// Adds the softmax of up to AVCL_ROWS rows of scores to the sums of the columns; keys are padded to `pitch`.
template <typename T>
inline void add_rows(T* scores, int64_t rows, int64_t keys, int64_t pitch, T* sums) {
  T share[AVCL_ROWS];
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = keys; j < pitch; ++j) scores[r * pitch + j] = -__builtin_inf();
    share[r] = soften<T>(scores + r * pitch, pitch);
  }
  for (int64_t j = 0; j < pitch; j += kWidth<T>) {
    V<T> total = at(sums + j);
    for (int64_t r = 0; r < rows; ++r) total = mul_add(at(scores + r * pitch + j), splat(share[r]), total);
    at(sums + j) = total;
  }
}

template <typename T>
void importance(const Question& question, int64_t clip, int64_t group, T* scratch, T* sums) {
  constexpr int kP = kPanel<T>;
  const Heads &query = question.query, &key = question.key;
  const int64_t depth = question.depth, keys = key.length, pitch = padded(keys, kP);
  T *packed = scratch, *scores = packed + pitch * depth, *queries = scores + pitch * AVCL_ROWS;
  for (int64_t j = 0; j < pitch; ++j) sums[j] = 0;
  const int64_t first = group * question.per_group, all = first + question.per_group;
  const int64_t last = all < question.units ? all : question.units;
  for (int64_t unit = first, head = -1; unit < last; ++unit) {
    if (unit / question.blocks != head) {
      head = unit / question.blocks;
      for (int64_t j = 0; j < pitch; j += kP)
        pack<T>(key, clip, head, j, keys - j, kP, depth, 1, packed + j * depth);
    }
    const int64_t start = (unit - head * question.blocks) * Question::kRows, end = start + Question::kRows;
    for (int64_t row = start; row < end && row < query.length; row += AVCL_ROWS) {
      const int64_t left = (end < query.length ? end : query.length) - row, rows = left < AVCL_ROWS ? left : AVCL_ROWS;
      pack<T>(query, clip, head, row, rows, AVCL_ROWS, depth, static_cast<T>(question.scale), queries);
      for (int64_t j = 0; j < pitch; j += kP) tile<T>(queries, packed + j * depth, depth, scores + j, pitch);
      add_rows<T>(scores, rows, keys, pitch, sums);
    }
  }
}

template <typename T>
size_t scratch_of(const Question& question) {
  return (padded(question.key.length, kPanel<T>) * (question.depth + AVCL_ROWS) + question.depth * AVCL_ROWS) *
      sizeof(T);
}

const Kernels kernels = {
    AVCL_NAME,
    kPanel<float>,  // a multiple of kPanel<double>
    [](const Question& question) { return question.wide() ? scratch_of<double>(question) : scratch_of<float>(question); },
    [](const Question& question, int64_t clip, int64_t group, void* scratch, void* sums) {
      if (question.wide())
        importance(question, clip, group, static_cast<double*>(scratch), static_cast<double*>(sums));
      else
        importance(question, clip, group, static_cast<float*>(scratch), static_cast<float*>(sums));
    },
};

}  // namespace avcl::AVCL_ISA
