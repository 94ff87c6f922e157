// The ops of the namespace `avcl` on the CPU. Arguments are checked in Python; here only what would be unsafe.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../schemas.h"
#include "attention.h"
#include "draws.h"

namespace avcl {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Free {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{64}); }
};

std::unique_ptr<void, Free> aligned(size_t bytes) {
  return std::unique_ptr<void, Free>(::operator new(bytes, std::align_val_t{64}));
}

Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Type::kFloat;
    case ScalarType::Double: return Type::kDouble;
    case ScalarType::BFloat16: return Type::kBFloat16;
    case ScalarType::Half: return Type::kHalf;
    default: STD_TORCH_CHECK(false, "avcl: a floating-point tensor is needed");
  }
}

// (B, H, L, d), or with three dimensions (B, H, d).
Heads heads_of(const Tensor& x) {
  const bool rows = x.dim() == 4;
  return {x.const_data_ptr(), type_of(x), rows ? x.size(2) : 1,        x.stride(0),
          x.stride(1),        rows ? x.stride(2) : 0, x.stride(rows ? 3 : 2)};
}

Tensor importance(const Tensor& query, const Tensor& key, double scale, double temperature) {
  STD_TORCH_CHECK(query.dim() == 4 && key.dim() == 4, "avcl::importance: (B, H, M, d) and (B, H, L, d) are needed");
  const int64_t clips = query.size(0), heads = query.size(1), rows = query.size(2), keys = key.size(2);
  const int64_t depth = query.size(3);
  STD_TORCH_CHECK(key.size(0) == clips && key.size(1) == heads && key.size(3) == depth && rows > 0 && keys > 0,
                  "avcl::importance: query and key do not fit");
  const Heads q = heads_of(query), k = heads_of(key);
  const bool wide = q.type == Type::kDouble || k.type == Type::kDouble;
  const Kernels& kernel = *kernels();
  const Split split(heads, rows);
  const int64_t pitch = (keys + kernel.padding - 1) / kernel.padding * kernel.padding;
  const size_t width = wide ? sizeof(double) : sizeof(float);
  const double per_row = scale / temperature * 1.4426950408889634;  // the kernels use powers of 2
  Tensor out = torch::stable::new_empty(query, {clips, keys}, wide ? ScalarType::Double : ScalarType::Float);
  auto sums = aligned(clips * split.groups * pitch * width);
  char* const partial = static_cast<char*>(sums.get());
  const int64_t tasks = clips * split.groups;
  std::atomic<int64_t> next = 0;  // whoever is ready takes one: another program may slow one thread down
  torch::stable::parallel_for(0, std::min<int64_t>(tasks, torch::stable::get_num_threads()), 1, [&](int64_t, int64_t) {
    auto scratch = aligned(kernel.scratch(keys, depth, wide));
    for (int64_t i; (i = next++) < tasks;)
      kernel.importance(q, k, split, i / split.groups, i % split.groups, depth, per_row, wide, scratch.get(),
                        partial + i * pitch * width);
  });
  void* const result = out.mutable_data_ptr();
  for (int64_t clip = 0; clip < clips; ++clip)
    for (int64_t j = 0; j < keys; ++j) {
      double total = 0;
      for (int64_t group = 0; group < split.groups; ++group) {
        const int64_t i = (clip * split.groups + group) * pitch + j;
        total += wide ? static_cast<double*>(sums.get())[i] : static_cast<float*>(sums.get())[i];
      }
      total /= static_cast<double>(heads * rows);
      if (wide)
        static_cast<double*>(result)[clip * keys + j] = total;
      else
        static_cast<float*>(result)[clip * keys + j] = static_cast<float>(total);
    }
  return out;
}

Tensor correlation(const Tensor& key, const Tensor& past, const Tensor& now, const Tensor& top, double scale,
                   double temperature) {
  STD_TORCH_CHECK(key.dim() == 4 && past.dim() == 3 && now.dim() == 3 && top.dim() == 2,
                  "avcl::correlation: (B, H, L, d), (B, H, d), (B, H, d) and (B, K) are needed");
  const int64_t clips = key.size(0), heads = key.size(1), keys = key.size(2), depth = key.size(3), tops = top.size(1);
  for (const Tensor* pooled : {&past, &now})
    STD_TORCH_CHECK(pooled->size(0) == clips && pooled->size(1) == heads && pooled->size(2) == depth,
                    "avcl::correlation: pooled queries do not fit the key");
  STD_TORCH_CHECK(top.size(0) == clips && top.scalar_type() == ScalarType::Long,
                  "avcl::correlation: top must be int64 (B, K)");
  const int64_t* at = static_cast<const int64_t*>(top.const_data_ptr());
  const int64_t row = top.stride(0), column = top.stride(1);
  for (int64_t clip = 0; clip < clips; ++clip)
    for (int64_t t = 0; t < tops; ++t) {
      const int64_t j = at[clip * row + t * column];
      STD_TORCH_CHECK(0 <= j && j < keys, "avcl::correlation: top: ", j, " is not one of ", keys, " patches");
    }
  const Heads k = heads_of(key), p = heads_of(past), n = heads_of(now);
  const bool wide = k.type == Type::kDouble || p.type == Type::kDouble || n.type == Type::kDouble;
  const size_t width = wide ? sizeof(double) : sizeof(float);
  const Kernels& kernel = *kernels();
  Tensor out = torch::stable::new_zeros(key, {clips, keys}, wide ? ScalarType::Double : ScalarType::Float);
  char* const result = static_cast<char*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, clips, 1, [&](int64_t begin, int64_t end) {
    const int64_t pitch = depth + kernel.padding;
    auto scratch = aligned(((heads + 1) * pitch + heads + kernel.padding) * width);
    for (int64_t clip = begin; clip < end; ++clip)
      kernel.correlation(k, p, n, clip, heads, depth, at + clip * row, column, tops,
                         scale / temperature * 1.4426950408889634, wide, scratch.get(), result + clip * keys * width);
  });
  return out;
}

template <typename T>
const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

void read(const Tensor& tensor, Type type, int64_t row, double* to) {
  const int64_t count = tensor.size(1), start = row * tensor.stride(0), step = tensor.stride(1);
  const auto copy = [&](const auto* from) {
    for (int64_t j = 0; j < count; ++j) to[j] = static_cast<double>(from[start + j * step]);
  };
  switch (type) {
    case Type::kFloat: return copy(data_of<float>(tensor));
    case Type::kDouble: return copy(data_of<double>(tensor));
    case Type::kBFloat16: return copy(data_of<torch::headeronly::BFloat16>(tensor));
    case Type::kHalf: return copy(data_of<torch::headeronly::Half>(tensor));
  }
}

// How many clips one thread must have at least: waking another one takes longer than a few thousand draws.
int64_t grain(int64_t patches, int64_t cheap) { return cheap / patches + 1; }

void check_rows(const Tensor& values, const Tensor& index) {
  STD_TORCH_CHECK(values.dim() == 2 && index.dim() == 1 && index.size(0) == values.size(0) &&
                      index.scalar_type() == ScalarType::Long,
                  "avcl: (B, L) and int64 (B,) are needed");
}

Tensor prune(const Tensor& correlation, int64_t seed, int64_t use, const Tensor& index) {
  check_rows(correlation, index);
  const int64_t clips = correlation.size(0), patches = correlation.size(1);
  const Type type = type_of(correlation);
  Tensor out = torch::stable::new_empty(correlation, {clips, patches}, ScalarType::Bool);
  bool* const result = static_cast<bool*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, clips, grain(patches, 60'000), [&](int64_t begin, int64_t end) {
    std::vector<double> chance(patches);
    for (int64_t clip = begin; clip < end; ++clip) {
      read(correlation, type, clip, chance.data());
      const uint64_t number = data_of<int64_t>(index)[clip * index.stride(0)];
      for (int64_t j = 0; j < patches; ++j)
        result[clip * patches + j] = falls(word(seed, use, number, j), chance[j]);
    }
  });
  return out;
}

// `choose(Selection&, index, out)` for every clip, with the clip's importance and pruned patches read in.
template <typename Choose>
Tensor select(const Tensor& importance, const Tensor& pruned, int64_t keep, const Tensor& index, int64_t cheap,
              const Choose& choose) {
  check_rows(importance, index);
  const int64_t clips = importance.size(0), patches = importance.size(1);
  STD_TORCH_CHECK(pruned.dim() == 2 && pruned.size(0) == clips && pruned.size(1) == patches &&
                      pruned.scalar_type() == ScalarType::Bool,
                  "avcl: pruned must be bool (B, L)");
  STD_TORCH_CHECK(0 <= keep && keep <= patches, "avcl: keep: ", keep, " of ", patches, " patches is not possible");
  const Type type = type_of(importance);
  const bool* const out_of = data_of<bool>(pruned);
  const int64_t row = pruned.stride(0), column = pruned.stride(1);
  Tensor out = torch::stable::new_empty(importance, {clips, keep}, ScalarType::Long);
  int64_t* const result = static_cast<int64_t*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, clips, grain(patches, cheap), [&](int64_t begin, int64_t end) {
    Selection selection(patches);
    for (int64_t clip = begin; clip < end; ++clip) {
      read(importance, type, clip, selection.weight.data());
      for (int64_t j = 0; j < patches; ++j) selection.pruned[j] = out_of[clip * row + j * column];
      choose(selection, data_of<int64_t>(index)[clip * index.stride(0)], result + clip * keep);
    }
  });
  return out;
}

Tensor sample(const Tensor& importance, const Tensor& pruned, int64_t keep, int64_t seed, int64_t use,
              const Tensor& index) {
  return select(importance, pruned, keep, index, 5'000, [=](Selection& selection, int64_t number, int64_t* chosen) {
    selection.sample(keep, seed, use, number, chosen);
  });
}

Tensor select_chunks(const Tensor& importance, const Tensor& pruned, int64_t keep, int64_t chunk,
                     const std::string& cut, int64_t seed, const Tensor& index) {
  STD_TORCH_CHECK(importance.dim() == 2 && chunk > 0 && importance.size(1) % chunk == 0, "avcl::select_chunks: chunk: ",
                  chunk, " does not divide the patches");
  const bool neighbours = cut == "neighbours";
  return select(importance, pruned, keep, index, 60'000, [=](Selection& selection, int64_t number, int64_t* chosen) {
    selection.chunks(keep, chunk, neighbours, seed, number, chosen);
  });
}

}  // namespace
}  // namespace avcl

STABLE_TORCH_LIBRARY_FRAGMENT(avcl, library) {
  library.def(AVCL_IMPORTANCE);
  library.def(AVCL_CORRELATION);
  library.def(AVCL_PRUNE);
  library.def(AVCL_SAMPLE);
  library.def(AVCL_SELECT_CHUNKS);
}

STABLE_TORCH_LIBRARY_IMPL(avcl, CPU, library) {
  library.impl("importance", TORCH_BOX(&avcl::importance));
  library.impl("correlation", TORCH_BOX(&avcl::correlation));
  library.impl("prune", TORCH_BOX(&avcl::prune));
  library.impl("sample", TORCH_BOX(&avcl::sample));
  library.impl("select_chunks", TORCH_BOX(&avcl::select_chunks));
}
