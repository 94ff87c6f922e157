// The ops of the namespace `avcl` on the CPU.
#include "../ops.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "attention.h"
#include "draws.h"

namespace avcl {
namespace {

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

template <typename T>
const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

Heads heads_of(const Tensor& x) {
  return {x.const_data_ptr(), type_of(x), x.size(2), x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
}

// The mean over `rows` of the groups' sums, each of `pitch` columns.
template <typename T>
void average(const T* sums, const Question& question, int64_t clips, int64_t pitch, double rows, T* out) {
  const int64_t keys = question.key.length;
  for (int64_t clip = 0; clip < clips; ++clip, sums += question.groups * pitch)
    for (int64_t j = 0; j < keys; ++j) {
      double total = 0;
      for (int64_t group = 0; group < question.groups; ++group) total += sums[group * pitch + j];
      *out++ = static_cast<T>(total / rows);
    }
}

Tensor importance(const Tensor& query, const Tensor& key, double scale, double temperature) {
  check_heads(query, key);
  const int64_t clips = query.size(0), heads = query.size(1), keys = key.size(2);
  const Question question(heads_of(query), heads_of(key), heads, query.size(3), scale / temperature * kLog2E);
  const bool wide = question.wide();
  const Kernels& kernel = *kernels();
  const int64_t pitch = (keys + kernel.padding - 1) / kernel.padding * kernel.padding, tasks = clips * question.groups;
  const int64_t bytes = pitch * (wide ? sizeof(double) : sizeof(float));
  Tensor out = torch::stable::new_empty(query, {clips, keys}, wide ? ScalarType::Double : ScalarType::Float);
  const auto sums = aligned(tasks * bytes);
  std::atomic<int64_t> next = 0;  // whoever is ready takes one: another program may slow one thread down
  torch::stable::parallel_for(0, std::min<int64_t>(tasks, torch::stable::get_num_threads()), 1, [&](int64_t, int64_t) {
    const auto scratch = aligned(kernel.scratch(question));
    for (int64_t i; (i = next++) < tasks;)
      kernel.importance(question, i / question.groups, i % question.groups, scratch.get(),
                        static_cast<char*>(sums.get()) + i * bytes);
  });
  const double rows = static_cast<double>(heads * query.size(2));
  if (wide)
    average(static_cast<double*>(sums.get()), question, clips, pitch, rows, static_cast<double*>(out.mutable_data_ptr()));
  else
    average(static_cast<float*>(sums.get()), question, clips, pitch, rows, static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

void read(const Tensor& tensor, Type type, int64_t row, double* to) {
  const auto copy = [&](const auto* from) {
    from += row * tensor.stride(0);
    for (int64_t j = 0, step = tensor.stride(1); j < tensor.size(1); ++j) to[j] = static_cast<double>(from[j * step]);
  };
  switch (type) {
    case Type::kFloat: return copy(data_of<float>(tensor));
    case Type::kDouble: return copy(data_of<double>(tensor));
    case Type::kBFloat16: return copy(data_of<torch::headeronly::BFloat16>(tensor));
    case Type::kHalf: return copy(data_of<torch::headeronly::Half>(tensor));
  }
}

// `choose(Selection&, index, out)` for every clip, with the clip's importance and pruned patches read in.
// A thread has at least as many clips as `cheap` patches fill: waking another one takes longer than that.
template <typename Choose>
Tensor select(const Tensor& importance, const Tensor& pruned, int64_t keep, const Tensor& index, int64_t cheap,
              const Choose& choose) {
  const int64_t clips = importance.size(0), patches = importance.size(1);
  const Type type = type_of(importance);
  Tensor out = torch::stable::new_empty(importance, {clips, keep}, ScalarType::Long);
  int64_t* const result = static_cast<int64_t*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, clips, cheap / std::max<int64_t>(patches, 1) + 1, [&](int64_t begin, int64_t end) {
    Selection selection(patches);
    for (int64_t clip = begin; clip < end; ++clip) {
      read(importance, type, clip, selection.weight.data());
      const bool* const out_of = data_of<bool>(pruned) + clip * pruned.stride(0);
      for (int64_t j = 0, step = pruned.stride(1); j < patches; ++j) selection.pruned[j] = out_of[j * step];
      choose(selection, data_of<int64_t>(index)[clip * index.stride(0)], result + clip * keep);
    }
  });
  return out;
}

Tensor sample(const Tensor& importance, const Tensor& pruned, int64_t keep, int64_t seed, int64_t use,
              const Tensor& index) {
  check_selection(importance, pruned, keep, 1, index);
  return select(importance, pruned, keep, index, 5'000, [=](Selection& selection, int64_t number, int64_t* chosen) {
    selection.sample(keep, seed, use, number, chosen);
  });
}

Tensor select_chunks(const Tensor& importance, const Tensor& pruned, int64_t keep, int64_t chunk,
                     const std::string& cut, int64_t seed, const Tensor& index) {
  check_selection(importance, pruned, keep, chunk, index);
  const bool neighbours = cut == "neighbours";
  return select(importance, pruned, keep, index, 60'000, [=](Selection& selection, int64_t number, int64_t* chosen) {
    selection.chunks(keep, chunk, neighbours, seed, number, chosen);
  });
}

}  // namespace
}  // namespace avcl

STABLE_TORCH_LIBRARY_IMPL(avcl, CPU, library) { AVCL_OPS(AVCL_IMPLEMENT) }
