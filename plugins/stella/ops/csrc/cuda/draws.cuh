// Sampling and Algorithm 1 on the device; the numbers and their arithmetic are those of ../draws.h.
#pragma once

#include <cstdint>

#include "../draws.h"

namespace avcl {

constexpr int kDrawThreads = 256;

__global__ void patch_arrivals(const double* importance, const bool* pruned, const int64_t* index, int64_t clips,
                               int64_t patches, uint64_t seed, uint64_t use, uint64_t* times) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < clips * patches)
    times[i] = arrival(word(seed, use, index[i / patches], i % patches), patch_weight(importance[i], pruned[i]));
}

// Ranks by counting: who arrives before me? A block has kDrawThreads columns of one clip.
__global__ void __launch_bounds__(kDrawThreads)
    first_arrivals(const uint64_t* times, int64_t patches, int64_t keep, int64_t* chosen) {
  AVCL_SHARED(uint64_t[kDrawThreads], others);
  const int64_t column = int64_t{blockIdx.x} * kDrawThreads + threadIdx.x, clip = blockIdx.y;
  const uint64_t* of_clip = times + clip * patches;
  const uint64_t mine = column < patches ? of_clip[column] : 0;
  int64_t rank = 0;
  for (int64_t start = 0; start < patches; start += kDrawThreads) {
    __syncthreads();
    if (start + threadIdx.x < patches) others[threadIdx.x] = of_clip[start + threadIdx.x];
    __syncthreads();
    for (int64_t o = 0; o < kDrawThreads && start + o < patches; ++o)
      rank += others[o] < mine || (others[o] == mine && start + o < column);
  }
  if (column < patches && rank < keep) chosen[clip * keep + rank] = column;
}

// What one block needs of global memory for one clip.
struct ChunkScratch {
  double* weight;  // (B, L): importance, used up
  uint64_t* time;  // (B, C)
  int64_t *left, *rank, *room;  // (B, C)
  bool* taken;  // (B, L)
};

// Algorithm 1; a block has one clip.
__global__ void __launch_bounds__(kDrawThreads)
    take_chunks(const bool* pruned, const int64_t* index, int64_t patches, int64_t keep, int64_t chunk,
                bool neighbours, uint64_t seed, ChunkScratch scratch, int64_t* chosen) {
  const int64_t clip = blockIdx.x, count = patches / chunk, thread = threadIdx.x, number = index[clip];
  double* weight = scratch.weight + clip * patches;
  uint64_t* time = scratch.time + clip * count;
  int64_t *left = scratch.left + clip * count, *rank = scratch.rank + clip * count;
  int64_t* room = scratch.room + clip * count;
  bool* taken = scratch.taken + clip * patches;
  pruned += clip * patches;
  for (int64_t half = first_fold(chunk), now = chunk; now > 1; now = half, half /= 2) {
    for (int64_t e = thread; e < count * half; e += kDrawThreads) {
      const int64_t j = e / half * chunk + e % half;
      if (e % half + half < now) weight[j] = plus(weight[j], weight[j + half]);
    }
    __syncthreads();
  }
  for (int64_t c = thread; c < count; c += kDrawThreads) {
    time[c] = arrival(word(seed, kUseAudio, number, c), over(weight[c * chunk], static_cast<double>(chunk)));
    int64_t here = 0;
    for (int64_t j = 0; j < chunk; ++j) here += !pruned[c * chunk + j];
    left[c] = here;
  }
  __syncthreads();
  for (int64_t c = thread; c < count; c += kDrawThreads) {
    int64_t before = 0, space = keep;
    for (int64_t o = 0; o < count; ++o)
      if (time[o] < time[c] || (time[o] == time[c] && o < c)) ++before, space -= left[o];
    rank[c] = before;
    room[c] = space > 0 ? space : 0;  // when it is this chunk's turn
  }
  __syncthreads();
  for (int64_t p = thread; p < patches; p += kDrawThreads) {
    const int64_t c = p / chunk;
    const int64_t surplus = left[c] > room[c] ? left[c] - room[c] : 0;
    const bool head = surplus > 0 && neighbours &&
        drops_head(c > 0 ? rank[c - 1] : count, rank[c], c + 1 < count ? rank[c + 1] : count,
                   word(seed, kUseCut, number, c));
    const int64_t from = head ? surplus : 0, to = from + left[c] - surplus;
    int64_t place = 0;
    for (int64_t j = c * chunk; j < p; ++j) place += !pruned[j];
    taken[p] = !pruned[p] && from <= place && place < to;
  }
  __syncthreads();
  for (int64_t p = thread; p < patches; p += kDrawThreads) {
    int64_t before = 0, all = 0;
    for (int64_t o = 0; o < patches; ++o) {
      before += o < p && taken[o];
      all += taken[o];
    }
    const int64_t to = taken[p] ? before : all + p - before;
    if (to < keep) chosen[clip * keep + to] = p;
  }
}

}  // namespace avcl
