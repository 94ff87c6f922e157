// The ops of the namespace `avcl` on CUDA.
#if !defined(AVCL_EMULATION)  // the emulator of the tests brings its own
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#define AVCL_NAMESPACE avcl
#define AVCL_DEVICE CUDA
#endif

#include "../ops.h"
#include "attention.cuh"
#include "draws.cuh"

namespace avcl {
namespace {

#if defined(AVCL_EMULATION)
using emulation::Launch;
#else
// Launches on torch's current stream of the tensor's device.
struct Launch {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit Launch(const Tensor& tensor) : guard(tensor.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, int block, Arguments... arguments) const {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    kernel<<<grid, block, 0, stream>>>(static_cast<Parameters>(arguments)...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};
#endif

unsigned blocks(int64_t count, int64_t size) { return static_cast<unsigned>((count + size - 1) / size); }

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename In>
DeviceHeads<In> heads_of(const Tensor& x) {
  return {read<In>(x), x.size(2), x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
}

template <typename In>
Tensor importance_of(const Tensor& query, const Tensor& key, double scale) {
  using Acc = typename Wide<In>::type;
  const int64_t clips = query.size(0), heads = query.size(1), rows = query.size(2), keys = key.size(2);
  const int64_t depth = query.size(3);
  const Launch launch(query);
  const auto empty = [&](std::initializer_list<int64_t> size) {
    return torch::stable::new_empty(query, size, sizeof(Acc) == sizeof(double) ? ScalarType::Double : ScalarType::Float);
  };
  const Tensor largest = empty({clips, heads, rows}), share = empty({clips, heads, rows});
  const Tensor sums = empty({clips, heads, keys}), out = empty({clips, keys});
  const dim3 by_rows(blocks(rows, kTile), heads, clips), by_columns(blocks(keys, kTile), heads, clips);
  launch(softmax_rows<In>, by_rows, kThreads, heads_of<In>(query), heads_of<In>(key), depth, scale, data<Acc>(largest),
         data<Acc>(share));
  launch(softmax_columns<In>, by_columns, kThreads, heads_of<In>(query), heads_of<In>(key), depth, scale,
         read<Acc>(largest), read<Acc>(share), data<Acc>(sums));
  launch(mean_heads<Acc>, blocks(clips * keys, kDrawThreads), kDrawThreads, read<Acc>(sums), clips, heads, keys, rows,
         data<Acc>(out));
  return out;
}

Tensor importance(const Tensor& query, const Tensor& key, double scale, double temperature) {
  check_heads(query, key);
  scale = scale / temperature * kLog2E;
  switch (query.scalar_type()) {
    case ScalarType::Float: return importance_of<float>(query, key, scale);
    case ScalarType::Double: return importance_of<double>(query, key, scale);
    case ScalarType::Half: return importance_of<__half>(query, key, scale);
    case ScalarType::BFloat16: return importance_of<__nv_bfloat16>(query, key, scale);
    default: STD_TORCH_CHECK(false, "avcl: a floating-point tensor is needed");
  }
}

// A copy of `importance` in double, which a kernel may use up.
Tensor weights(const Tensor& importance) {
  Tensor copy = torch::stable::new_empty(importance, {importance.size(0), importance.size(1)}, ScalarType::Double);
  torch::stable::copy_(copy, importance);
  return copy;
}

Tensor sample(const Tensor& importance, const Tensor& pruned, int64_t keep, int64_t seed, int64_t use,
              const Tensor& index) {
  check_selection(importance, pruned, keep, 1, index);
  const int64_t clips = importance.size(0), patches = importance.size(1);
  const Launch launch(importance);
  const Tensor weight = weights(importance), out_of = torch::stable::contiguous(pruned);
  const Tensor at = torch::stable::contiguous(index);
  const Tensor times = torch::stable::new_empty(importance, {clips, patches}, ScalarType::Long);
  const Tensor out = torch::stable::new_empty(importance, {clips, keep}, ScalarType::Long);
  launch(patch_arrivals, blocks(clips * patches, kDrawThreads), kDrawThreads, read<double>(weight), read<bool>(out_of),
         read<int64_t>(at), clips, patches, seed, use, data<uint64_t>(times));
  launch(first_arrivals, dim3(blocks(patches, kDrawThreads), clips), kDrawThreads, read<uint64_t>(times), patches, keep,
         data<int64_t>(out));
  return out;
}

Tensor select_chunks(const Tensor& importance, const Tensor& pruned, int64_t keep, int64_t chunk,
                     const std::string& cut, int64_t seed, const Tensor& index) {
  check_selection(importance, pruned, keep, chunk, index);
  const int64_t clips = importance.size(0), patches = importance.size(1), each = clips * (patches / chunk);
  const Launch launch(importance);
  const Tensor weight = weights(importance), out_of = torch::stable::contiguous(pruned);
  const Tensor at = torch::stable::contiguous(index);
  const Tensor numbers = torch::stable::new_empty(importance, {4 * each}, ScalarType::Long);
  const Tensor taken = torch::stable::new_empty(importance, {clips, patches}, ScalarType::Bool);
  const Tensor out = torch::stable::new_empty(importance, {clips, keep}, ScalarType::Long);
  int64_t* const left = data<int64_t>(numbers) + each;
  const ChunkScratch scratch{data<double>(weight), data<uint64_t>(numbers), left, left + each, left + 2 * each,
                             data<bool>(taken)};
  launch(take_chunks, clips, kDrawThreads, read<bool>(out_of), read<int64_t>(at), patches, keep, chunk,
         cut == "neighbours", seed, scratch, data<int64_t>(out));
  return out;
}

}  // namespace
}  // namespace avcl

STABLE_TORCH_LIBRARY_IMPL(AVCL_NAMESPACE, AVCL_DEVICE, library) { AVCL_OPS(AVCL_IMPLEMENT) }
