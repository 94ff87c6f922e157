// The ops of the namespace `avcl` on CUDA. Arguments are checked in Python; here only what would be unsafe.
#if !defined(AVCL_EMULATION)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>
#define AVCL_NAMESPACE avcl
#define AVCL_DEVICE CUDA
#endif
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

#include "../schemas.h"
#include "launch.cuh"

namespace avcl {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

constexpr double kLog2E = 1.4426950408889634;  // the kernels use powers of 2

#if defined(AVCL_EMULATION)
using emulation::Launch;
#else
// Launches on torch's current stream of the tensor's device.
struct Launch {
  DeviceGuard guard;
  cudaStream_t stream;

  explicit Launch(const Tensor& tensor) : guard(tensor.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, int block, Arguments... arguments) const {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    kernel<<<grid, block, 0, stream>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};
#endif

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

Tensor like(const Tensor& tensor, ScalarType type) {
  return torch::stable::contiguous(torch::stable::to(tensor, type));
}

template <typename In>
DeviceHeads<In> heads_of(const Tensor& x) {
  return {read<In>(x), x.size(2), x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
}

// `call(In{})` with the type of the numbers in `tensor`.
template <typename Call>
void by_type(const Tensor& tensor, const Call& call) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return call(float{});
    case ScalarType::Double: return call(double{});
    case ScalarType::Half: return call(__half{});
    case ScalarType::BFloat16: return call(__nv_bfloat16{});
    default: STD_TORCH_CHECK(false, "avcl: a floating-point tensor is needed");
  }
}

Tensor importance(const Tensor& query, const Tensor& key, double scale, double temperature) {
  STD_TORCH_CHECK(query.dim() == 4 && key.dim() == 4, "avcl::importance: (B, H, M, d) and (B, H, L, d) are needed");
  const int64_t clips = query.size(0), heads = query.size(1), rows = query.size(2), depth = query.size(3);
  STD_TORCH_CHECK(key.size(0) == clips && key.size(1) == heads && key.size(3) == depth && rows > 0 &&
                      key.size(2) > 0 && key.scalar_type() == query.scalar_type(),
                  "avcl::importance: query and key do not fit");
  const Launch launch(query);
  const ScalarType wide = query.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor largest = torch::stable::new_empty(query, {clips, heads, rows}, wide);
  const Tensor share = torch::stable::new_empty(query, {clips, heads, rows}, wide);
  const Tensor sums = torch::stable::new_empty(query, {clips, heads, key.size(2)}, wide);
  const Tensor out = torch::stable::new_empty(query, {clips, key.size(2)}, wide);
  by_type(query, [&](auto kind) {
    using In = decltype(kind);
    using Acc = typename Wide<In>::type;
    launch_importance<In>(launch, heads_of<In>(query), heads_of<In>(key), clips, heads, depth,
                         scale / temperature * kLog2E, data<Acc>(largest), data<Acc>(share), data<Acc>(sums),
                         data<Acc>(out));
  });
  return out;
}

Tensor correlation(const Tensor& key, const Tensor& past, const Tensor& now, const Tensor& top, double scale,
                   double temperature) {
  STD_TORCH_CHECK(key.dim() == 4 && past.dim() == 3 && now.dim() == 3 && top.dim() == 2 &&
                      top.size(0) == key.size(0) && top.scalar_type() == ScalarType::Long,
                  "avcl::correlation: (B, H, L, d), (B, H, d), (B, H, d) and int64 (B, K) are needed");
  const int64_t clips = key.size(0), heads = key.size(1), depth = key.size(3), tops = top.size(1);
  for (const Tensor* pooled : {&past, &now})
    STD_TORCH_CHECK(pooled->size(0) == clips && pooled->size(1) == heads && pooled->size(2) == depth,
                    "avcl::correlation: pooled queries do not fit the key");
  const Launch launch(key);
  bool double_needed = false;
  for (const Tensor* tensor : {&key, &past, &now}) double_needed |= tensor->scalar_type() == ScalarType::Double;
  const ScalarType wide = double_needed ? ScalarType::Double : ScalarType::Float;
  const Tensor before = like(past, wide), after = like(now, wide), at = like(top, ScalarType::Long);
  const Tensor out = torch::stable::new_zeros(key, {clips, key.size(2)}, wide);
  const double per_row = scale / temperature * kLog2E;
  by_type(key, [&](auto kind) {
    using In = decltype(kind);
    const auto run = [&](auto acc) {
      using Acc = decltype(acc);
      launch_correlation<In, Acc>(launch, heads_of<In>(key), read<Acc>(before), read<Acc>(after), read<int64_t>(at),
                                 clips, heads, depth, tops, per_row, data<Acc>(out));
    };
    double_needed ? run(double{}) : run(float{});
  });
  return out;
}

void check_rows(const Tensor& values, const Tensor& index) {
  STD_TORCH_CHECK(values.dim() == 2 && index.dim() == 1 && index.size(0) == values.size(0) &&
                      index.scalar_type() == ScalarType::Long,
                  "avcl: (B, L) and int64 (B,) are needed");
}

void check_selection(const Tensor& importance, const Tensor& pruned, int64_t keep, const Tensor& index) {
  check_rows(importance, index);
  STD_TORCH_CHECK(pruned.dim() == 2 && pruned.size(0) == importance.size(0) &&
                      pruned.size(1) == importance.size(1) && pruned.scalar_type() == ScalarType::Bool,
                  "avcl: pruned must be bool (B, L)");
  STD_TORCH_CHECK(0 <= keep && keep <= importance.size(1), "avcl: keep: ", keep, " is not possible");
}

Tensor prune(const Tensor& correlation, int64_t seed, int64_t use, const Tensor& index) {
  check_rows(correlation, index);
  const int64_t clips = correlation.size(0), patches = correlation.size(1);
  const Launch launch(correlation);
  const Tensor chance = like(correlation, ScalarType::Double), at = torch::stable::contiguous(index);
  const Tensor out = torch::stable::new_empty(correlation, {clips, patches}, ScalarType::Bool);
  launch(prune_patches, dim3(blocks(clips * patches, kDrawThreads)), kDrawThreads, read<double>(chance),
         read<int64_t>(at), clips, patches, static_cast<uint64_t>(seed), static_cast<uint64_t>(use), data<bool>(out));
  return out;
}

Tensor sample(const Tensor& importance, const Tensor& pruned, int64_t keep, int64_t seed, int64_t use,
              const Tensor& index) {
  check_selection(importance, pruned, keep, index);
  const int64_t clips = importance.size(0), patches = importance.size(1);
  const Launch launch(importance);
  const Tensor weight = like(importance, ScalarType::Double), at = torch::stable::contiguous(index);
  const Tensor out_of = torch::stable::contiguous(pruned);
  const Tensor times = torch::stable::new_empty(importance, {clips, patches}, ScalarType::Long);
  const Tensor out = torch::stable::new_empty(importance, {clips, keep}, ScalarType::Long);
  launch(patch_arrivals, dim3(blocks(clips * patches, kDrawThreads)), kDrawThreads, read<double>(weight),
         read<bool>(out_of), read<int64_t>(at), clips, patches, static_cast<uint64_t>(seed),
         static_cast<uint64_t>(use), data<uint64_t>(times));
  launch(first_arrivals, dim3(blocks(patches, kDrawThreads), static_cast<unsigned>(clips)), kDrawThreads,
         static_cast<const uint64_t*>(data<uint64_t>(times)), patches, keep, data<int64_t>(out));
  return out;
}

Tensor select_chunks(const Tensor& importance, const Tensor& pruned, int64_t keep, int64_t chunk,
                     const std::string& cut, int64_t seed, const Tensor& index) {
  check_selection(importance, pruned, keep, index);
  const int64_t clips = importance.size(0), patches = importance.size(1);
  STD_TORCH_CHECK(chunk > 0 && patches % chunk == 0, "avcl::select_chunks: chunk: ", chunk,
                  " does not divide the patches");
  const int64_t count = patches / chunk;
  const Launch launch(importance);
  const Tensor weight = torch::stable::new_empty(importance, {clips, patches}, ScalarType::Double);
  Tensor copy = weight;
  torch::stable::copy_(copy, importance);  // used up: never the caller's own
  const Tensor at = torch::stable::contiguous(index), out_of = torch::stable::contiguous(pruned);
  const Tensor numbers = torch::stable::new_empty(importance, {4, clips, count}, ScalarType::Long);
  const Tensor taken = torch::stable::new_empty(importance, {clips, patches}, ScalarType::Bool);
  const Tensor out = torch::stable::new_empty(importance, {clips, keep}, ScalarType::Long);
  int64_t* const of_chunks = data<int64_t>(numbers);
  const int64_t each = clips * count;
  const ChunkScratch scratch{data<double>(weight), data<uint64_t>(numbers), of_chunks + each, of_chunks + 2 * each,
                             of_chunks + 3 * each, data<bool>(taken)};
  launch(take_chunks, dim3(static_cast<unsigned>(clips)), kDrawThreads, read<bool>(out_of), read<int64_t>(at),
         patches, keep, chunk, cut == "neighbours", static_cast<uint64_t>(seed), scratch, data<int64_t>(out));
  return out;
}

}  // namespace
}  // namespace avcl

STABLE_TORCH_LIBRARY_IMPL(AVCL_NAMESPACE, AVCL_DEVICE, library) {
  library.impl("importance", TORCH_BOX(&avcl::importance));
  library.impl("correlation", TORCH_BOX(&avcl::correlation));
  library.impl("prune", TORCH_BOX(&avcl::prune));
  library.impl("sample", TORCH_BOX(&avcl::sample));
  library.impl("select_chunks", TORCH_BOX(&avcl::select_chunks));
}
