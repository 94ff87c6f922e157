// How kernels are launched: by `launch(kernel, grid, block, arguments...)`, which the emulation has as well.
#pragma once

#include "attention.cuh"
#include "draws.cuh"

namespace avcl {

inline unsigned blocks(int64_t count, int64_t size) { return static_cast<unsigned>((count + size - 1) / size); }

// `largest` and `share` (B, H, M), `sums` (B, H, L) and `out` (B, L) are of Wide<In>.
template <typename In, typename Launch>
void launch_importance(const Launch& launch, DeviceHeads<In> query, DeviceHeads<In> key, int64_t clips, int64_t heads,
                int64_t depth, double scale, typename Wide<In>::type* largest, typename Wide<In>::type* share,
                typename Wide<In>::type* sums, typename Wide<In>::type* out) {
  using Acc = typename Wide<In>::type;
  const unsigned high = static_cast<unsigned>(heads), deep = static_cast<unsigned>(clips);
  launch(softmax_rows<In>, dim3(blocks(query.length, kTile), high, deep), kThreads, query, key, depth,
         static_cast<Acc>(scale), largest, share);
  launch(softmax_columns<In>, dim3(blocks(key.length, kTile), high, deep), kThreads, query, key, depth,
         static_cast<Acc>(scale), static_cast<const Acc*>(largest), static_cast<const Acc*>(share), sums);
  launch(mean_heads<Acc>, dim3(blocks(clips * key.length, kDrawThreads)), kDrawThreads,
         static_cast<const Acc*>(sums), clips, heads, key.length, query.length, out);
}

template <typename In, typename Acc, typename Launch>
void launch_correlation(const Launch& launch, DeviceHeads<In> key, const Acc* past, const Acc* now, const int64_t* top,
                 int64_t clips, int64_t heads, int64_t depth, int64_t tops, double scale, Acc* out) {
  launch(correlate<In, Acc>, dim3(blocks(clips * tops, kDrawThreads)), kDrawThreads, key, past, now, top, clips,
         heads, depth, tops, static_cast<Acc>(scale), out);
}

}  // namespace avcl
