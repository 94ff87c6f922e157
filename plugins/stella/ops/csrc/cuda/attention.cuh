// Column means of a softmax in two passes over tiles of scores: no map reaches global memory.
//
// First pass: largest score and sum of every row. Second pass: the same scores once more, summed down the columns.
// Every sum has a fixed order and there are no atomics. bf16 and half go through tensor cores, float and double not.
// Kept to what the emulation of the tests knows: blocks, shared memory, barriers, and matrices of a warp.
#pragma once

#include <cstdint>

#ifndef AVCL_SHARED  // the emulation brings its own
#define AVCL_SHARED(type, name) \
  using name##_type = type;     \
  __shared__ name##_type name
#endif

namespace avcl {

constexpr int kTile = 64;      // rows and columns of a tile of scores
constexpr int kThreads = 128;  // of a block
constexpr int kPitch = kTile + 4;

// A (B, H, L, d) tensor as it lies in memory; strides in elements.
template <typename In>
struct DeviceHeads {
  const In* data;
  int64_t length, clip, head, row, column;
};

__device__ inline float power(float x) { return exp2f(x); }
__device__ inline double power(double x) { return exp2(x); }
__device__ inline float number(float x) { return x; }
__device__ inline double number(double x) { return x; }
__device__ inline float number(__half x) { return __half2float(x); }
__device__ inline float number(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename In>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};

// Scores by one multiplication after another.
template <typename In>
struct Scalar {
  using Acc = typename Wide<In>::type;
  static constexpr int kDepth = 32;
  union Shared {
    struct {
      Acc query[kDepth][kTile + 1], key[kDepth][kTile + 1];
    } in;
    Acc scores[kTile][kPitch];
  };

  static __device__ void scores(const DeviceHeads<In>& query, const DeviceHeads<In>& key, const In* rows,
                                const In* columns, int64_t row, int64_t column, int64_t depth, Shared& shared) {
    const int thread = threadIdx.x, down = thread / 16 * 8, across = thread % 16;
    Acc sums[8][4] = {};
    for (int64_t start = 0; start < depth; start += kDepth) {
      __syncthreads();
      for (int e = thread; e < kTile * kDepth; e += kThreads) {
        const int at = e / kDepth, k = e % kDepth;
        const bool inside = start + k < depth;
        shared.in.query[k][at] = inside && row + at < query.length
            ? number(rows[(row + at) * query.row + (start + k) * query.column]) : Acc(0);
        shared.in.key[k][at] = inside && column + at < key.length
            ? number(columns[(column + at) * key.row + (start + k) * key.column]) : Acc(0);
      }
      __syncthreads();
      for (int k = 0; k < kDepth; ++k)
        for (int i = 0; i < 8; ++i)
          for (int j = 0; j < 4; ++j) sums[i][j] += shared.in.query[k][down + i] * shared.in.key[k][across + 16 * j];
    }
    __syncthreads();
    for (int i = 0; i < 8; ++i)
      for (int j = 0; j < 4; ++j) shared.scores[down + i][across + 16 * j] = sums[i][j];
    __syncthreads();
  }
};

// Scores by tensor cores: each of four warps has 16 rows.
template <typename In>
struct Tensor16 {
  using Acc = float;
  static constexpr int kDepth = 64, kStep = 16, kRow = kDepth + 8;
  union Shared {
    struct {
      alignas(32) unsigned short query[kTile][kRow];
      alignas(32) unsigned short key[kTile][kRow];
    } in;
    alignas(32) float scores[kTile][kPitch];
  };

  static __device__ void scores(const DeviceHeads<In>& query, const DeviceHeads<In>& key, const In* rows,
                                const In* columns, int64_t row, int64_t column, int64_t depth, Shared& shared) {
    using namespace nvcuda;
    const int thread = threadIdx.x, first = thread / 32 * kStep;
    const unsigned short* from_query = reinterpret_cast<const unsigned short*>(rows);
    const unsigned short* from_key = reinterpret_cast<const unsigned short*>(columns);
    wmma::fragment<wmma::accumulator, kStep, kStep, kStep, float> sums[kTile / kStep];
    for (int j = 0; j < kTile / kStep; ++j) wmma::fill_fragment(sums[j], 0.0f);
    for (int64_t start = 0; start < depth; start += kDepth) {
      __syncthreads();
      for (int e = thread; e < kTile * kDepth; e += kThreads) {
        const int at = e / kDepth, k = e % kDepth;
        const bool inside = start + k < depth;
        // the bits of 0 are 0 in both types
        shared.in.query[at][k] = inside && row + at < query.length
            ? from_query[(row + at) * query.row + (start + k) * query.column] : static_cast<unsigned short>(0);
        shared.in.key[at][k] = inside && column + at < key.length
            ? from_key[(column + at) * key.row + (start + k) * key.column] : static_cast<unsigned short>(0);
      }
      __syncthreads();
      for (int k = 0; k < kDepth; k += kStep) {
        wmma::fragment<wmma::matrix_a, kStep, kStep, kStep, In, wmma::row_major> a;
        wmma::load_matrix_sync(a, reinterpret_cast<const In*>(&shared.in.query[first][k]), kRow);
        for (int j = 0; j < kTile / kStep; ++j) {
          wmma::fragment<wmma::matrix_b, kStep, kStep, kStep, In, wmma::col_major> b;
          wmma::load_matrix_sync(b, reinterpret_cast<const In*>(&shared.in.key[j * kStep][k]), kRow);
          wmma::mma_sync(sums[j], a, b, sums[j]);
        }
      }
    }
    __syncthreads();
    for (int j = 0; j < kTile / kStep; ++j)
      wmma::store_matrix_sync(&shared.scores[first][j * kStep], sums[j], kPitch, wmma::mem_row_major);
    __syncthreads();
  }
};

template <typename In>
struct Scores : Scalar<In> {};
template <>
struct Scores<__half> : Tensor16<__half> {};
template <>
struct Scores<__nv_bfloat16> : Tensor16<__nv_bfloat16> {};

// Of each row (B, H, M) the largest score and 1 / sum; a block has kTile rows of one head, two threads to a row.
template <typename In>
__global__ void __launch_bounds__(kThreads, 3)
    softmax_rows(DeviceHeads<In> query, DeviceHeads<In> key, int64_t depth, typename Wide<In>::type scale,
                 typename Wide<In>::type* largest, typename Wide<In>::type* share) {
  using Acc = typename Wide<In>::type;
  AVCL_SHARED(typename Scores<In>::Shared, shared);
  AVCL_SHARED(Acc[2][kTile], parts);
  const int64_t row = int64_t{blockIdx.x} * kTile, head = blockIdx.y, clip = blockIdx.z;
  const int at = threadIdx.x / 2, half = threadIdx.x % 2;
  const Acc lowest = -INFINITY;
  Acc top = lowest, sum = 0;
  for (int64_t column = 0; column < key.length; column += kTile) {
    Scores<In>::scores(query, key, query.data + clip * query.clip + head * query.head,
                       key.data + clip * key.clip + head * key.head, row, column, depth, shared);
    const int64_t left = key.length - column;
    Acc here = top;
    for (int j = half; j < kTile && j < left; j += 2) {
      const Acc score = shared.scores[at][j] * scale;
      here = score > here ? score : here;
    }
    if (here > lowest) {
      sum *= top > lowest ? power(top - here) : Acc(0);
      for (int j = half; j < kTile && j < left; j += 2) sum += power(shared.scores[at][j] * scale - here);
      top = here;
    } else {
      for (int j = half; j < kTile && j < left; j += 2)  // minus infinity adds nothing, NaN is kept
        sum += shared.scores[at][j] == shared.scores[at][j] ? Acc(0) : shared.scores[at][j];
    }
  }
  if (half) parts[0][at] = top, parts[1][at] = sum;
  __syncthreads();
  if (!half && row + at < query.length) {
    const Acc other = parts[0][at], both = other > top ? other : top;
    const Acc mine = top > lowest ? sum * power(top - both) : sum;
    const Acc theirs = other > lowest ? parts[1][at] * power(other - both) : parts[1][at];
    const int64_t to = (clip * gridDim.y + head) * query.length + row + at;
    largest[to] = both;
    share[to] = Acc(1) / (mine + theirs);
  }
}

// Column sums (B, H, L) of the softmax; a block has kTile columns of one head, two threads to a column.
template <typename In>
__global__ void __launch_bounds__(kThreads, 3)
    softmax_columns(DeviceHeads<In> query, DeviceHeads<In> key, int64_t depth, typename Wide<In>::type scale,
                    const typename Wide<In>::type* largest, const typename Wide<In>::type* share,
                    typename Wide<In>::type* sums) {
  using Acc = typename Wide<In>::type;
  AVCL_SHARED(typename Scores<In>::Shared, shared);
  AVCL_SHARED(Acc[kTile], parts);
  const int64_t column = int64_t{blockIdx.x} * kTile, head = blockIdx.y, clip = blockIdx.z;
  const int at = threadIdx.x % kTile, half = threadIdx.x / kTile;
  const int64_t of_head = (clip * gridDim.y + head) * query.length;
  Acc sum = 0;
  for (int64_t row = 0; row < query.length; row += kTile) {
    Scores<In>::scores(query, key, query.data + clip * query.clip + head * query.head,
                       key.data + clip * key.clip + head * key.head, row, column, depth, shared);
    for (int i = half * kTile / 2; i < (half + 1) * kTile / 2 && row + i < query.length; ++i)
      sum += power(shared.scores[i][at] * scale - largest[of_head + row + i]) * share[of_head + row + i];
  }
  if (half) parts[at] = sum;
  __syncthreads();
  if (!half && column + at < key.length) sums[(clip * gridDim.y + head) * key.length + column + at] = sum + parts[at];
}

// Mean (B, L) over heads and rows of column sums (B, H, L).
template <typename Acc>
__global__ void mean_heads(const Acc* sums, int64_t clips, int64_t heads, int64_t length, int64_t rows, Acc* out) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= clips * length) return;
  const int64_t clip = i / length, column = i % length;
  double total = 0;
  for (int64_t head = 0; head < heads; ++head) total += sums[(clip * heads + head) * length + column];
  out[i] = static_cast<Acc>(total / static_cast<double>(heads * rows));
}

}  // namespace avcl
