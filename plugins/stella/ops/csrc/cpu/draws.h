// Sampling and Algorithm 1 for single clips, on the CPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../draws.h"

namespace avcl {

struct Arrival {
  uint64_t time;
  int64_t column;
  bool operator<(const Arrival& other) const {
    return time != other.time ? time < other.time : column < other.column;
  }
};

// The first `keep` of all columns in the race, into `order`.
inline void race(const double* weight, int64_t columns, int64_t keep, uint64_t seed, uint64_t use, uint64_t index,
                 std::vector<Arrival>& field, int64_t* order) {
  field.resize(columns);
  for (int64_t j = 0; j < columns; ++j) field[j] = {arrival(word(seed, use, index, j), weight[j]), j};
  if (keep < columns) std::nth_element(field.begin(), field.begin() + keep, field.end());
  std::sort(field.begin(), field.begin() + keep);
  for (int64_t k = 0; k < keep; ++k) order[k] = field[k].column;
}

// One thread's working memory; `weight` holds a clip's importance when a function is called, and is used up.
struct Selection {
  std::vector<double> weight;
  std::vector<uint8_t> pruned;
  std::vector<Arrival> field;
  std::vector<int64_t> order, rank, room;

  explicit Selection(int64_t patches) : weight(patches), pruned(patches) {}

  void sample(int64_t keep, uint64_t seed, uint64_t use, uint64_t index, int64_t* chosen) {
    const int64_t patches = static_cast<int64_t>(weight.size());
    for (int64_t j = 0; j < patches; ++j) weight[j] = patch_weight(weight[j], pruned[j]);
    race(weight.data(), patches, keep, seed, use, index, field, chosen);
  }

  void chunks(int64_t keep, int64_t chunk, bool neighbours, uint64_t seed, uint64_t index, int64_t* chosen) {
    const int64_t patches = static_cast<int64_t>(weight.size()), count = patches / chunk;
    for (int64_t c = 0; c < count; ++c) {
      double* part = weight.data() + c * chunk;
      for (int64_t half = first_fold(chunk), left = chunk; left > 1; left = half, half /= 2)
        for (int64_t j = half; j < left; ++j) part[j - half] += part[j];
      weight[c] = part[0] / static_cast<double>(chunk);  // c <= c * chunk: the rest has been read
    }
    order.resize(patches + 1), rank.resize(count), room.resize(count);
    race(weight.data(), count, count, seed, kUseAudio, index, field, order.data());
    int64_t left_over = keep;
    for (int64_t r = 0; r < count; ++r) {
      const uint8_t* part = pruned.data() + order[r] * chunk;
      rank[order[r]] = r;
      room[order[r]] = left_over;  // when it is this chunk's turn
      left_over -= std::count(part, part + chunk, 0);
    }
    int64_t* next = order.data();  // chosen patches, then the others; one more is written than counts
    for (int64_t c = 0; c < count; ++c) {
      uint8_t* part = pruned.data() + c * chunk;
      const int64_t here = std::count(part, part + chunk, 0);
      const int64_t surplus = std::min(here, here - std::min(here, std::max<int64_t>(room[c], 0)));
      const bool head = surplus > 0 && neighbours &&
          drops_head(c > 0 ? rank[c - 1] : count, rank[c], c + 1 < count ? rank[c + 1] : count,
                     word(seed, kUseCut, index, c));
      const int64_t from = head ? surplus : 0, to = from + here - surplus;
      // without a branch: which patches are pruned cannot be foreseen
      for (int64_t j = 0, place = 0; j < chunk; ++j) {
        const bool left = !part[j], take = left & (from <= place) & (place < to);
        *next = c * chunk + j;
        next += take;
        place += left;
        part[j] = !take;
      }
    }
    for (int64_t j = 0; j < patches; ++j) {
      *next = j;
      next += pruned[j] != 0;
    }
    std::copy_n(order.data(), keep, chosen);
  }
};

}  // namespace avcl
