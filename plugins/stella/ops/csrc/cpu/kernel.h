// Column means of a softmax and correlation for one instruction set. Included once for each of them, with
//   AVCL_ISA    the namespace, AVCL_NAME its name
//   AVCL_BYTES  of a vector, AVCL_ROWS  of queries that one tile of registers holds
//   AVCL_TILES  where scores come from matrix tiles, see tiles.h
// A tile's scores over all keys fit into the cache: one pass, and no map is ever written to memory.
// Nothing here may come from a header: an inline function compiled for this set must not be shared with others.
#include "vector.h"
#include "softmax.h"
#ifdef AVCL_TILES
#include "tiles.h"
#endif

namespace avcl::AVCL_ISA {

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

// The keys of one head in panels: (keys / kPanel, depth, kPanel).
template <typename T>
inline void pack_keys(const Heads& key, int64_t clip, int64_t head, int64_t depth, T* packed) {
  constexpr int kP = kPanel<T>;
  for (int64_t j = 0; j < padded(key.length, kP); ++j) {
    T* column = packed + j / kP * kP * depth + j % kP;
    prefetch(key, clip, head, j + kAhead, depth);
    if (j < key.length)
      read<T>(key, clip, head, j, depth, column, kP, 1);
    else
      for (int64_t k = 0; k < depth; ++k) column[k * kP] = 0;
  }
}

template <typename T>
void importance(const Heads& query, const Heads& key, const Split& split, int64_t clip, int64_t group, int64_t depth,
                T scale, T* scratch, T* sums) {
  constexpr int kP = kPanel<T>;
  const int64_t keys = key.length, pitch = padded(keys, kP);
  T *keys_packed = scratch, *scores = keys_packed + pitch * depth, *queries = scores + pitch * AVCL_ROWS;
  for (int64_t j = 0; j < pitch; ++j) sums[j] = 0;
  const int64_t first = group * split.per_group;
  const int64_t last = first + split.per_group < split.units ? first + split.per_group : split.units;
  for (int64_t unit = first, next; unit < last; unit = next) {  // one head's at a time
    const int64_t head = unit / split.blocks, past = (head + 1) * split.blocks;
    next = past < last ? past : last;
    int64_t row = (unit - head * split.blocks) * Split::kRows, end = (next - head * split.blocks) * Split::kRows;
    if (end > query.length) end = query.length;
#ifdef AVCL_TILES
    if constexpr (sizeof(T) == sizeof(float))
      row = by_tiles(query, key, clip, head, row, end, depth, scale, scratch, sums);
#endif
    if (row < end) pack_keys<T>(key, clip, head, depth, keys_packed);
    for (; row < end; row += AVCL_ROWS) {
      const int rows = end - row < AVCL_ROWS ? static_cast<int>(end - row) : AVCL_ROWS;
      for (int r = 0; r < AVCL_ROWS; ++r) {
        prefetch(query, clip, head, row + AVCL_ROWS + r, depth);
        if (r < rows)
          read<T>(query, clip, head, row + r, depth, queries + r, AVCL_ROWS, scale);
        else
          for (int64_t k = 0; k < depth; ++k) queries[k * AVCL_ROWS + r] = 0;
      }
      for (int64_t j = 0; j < pitch; j += kP) tile<T>(queries, keys_packed + j * depth, depth, scores + j, pitch);
      add_rows<T>(scores, rows, pitch, keys, pitch, T{1}, sums);
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
  const size_t bytes = (padded(keys, panel) * (depth + AVCL_ROWS) + depth * AVCL_ROWS) * (wide ? 8 : 4);
#ifdef AVCL_TILES
  const size_t for_tiles = tile_scratch(keys, depth);
  return bytes > for_tiles ? bytes : for_tiles;
#else
  return bytes;
#endif
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
