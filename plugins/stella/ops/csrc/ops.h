// The ops that both libraries have kernels for, and what is unsafe to do without: Python checks the rest.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>

// OP(name, schema). Python defines the ops (../reference.py) and refuses a library that states other ones.
#define AVCL_OPS(OP)                                                                                             \
  OP(importance, "(Tensor query, Tensor key, float scale, float temperature) -> Tensor")                         \
  OP(sample, "(Tensor importance, Tensor pruned, SymInt keep, SymInt seed, SymInt use, Tensor index) -> Tensor") \
  OP(select_chunks,                                                                                              \
     "(Tensor importance, Tensor pruned, SymInt keep, SymInt chunk, str cut, SymInt seed, Tensor index) -> Tensor")

#define AVCL_STATE(op, schema) "\n" #op schema
#define AVCL_IMPLEMENT(op, schema) library.impl(#op, TORCH_BOX(&avcl::op));

extern "C" __attribute__((visibility("default"), used)) inline const char* avcl_ops() {
  return "avcl ops:" AVCL_OPS(AVCL_STATE) "\n";
}

namespace avcl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr double kLog2E = 1.4426950408889634;  // softmax is computed with powers of 2

inline void check_heads(const Tensor& query, const Tensor& key) {
  STD_TORCH_CHECK(query.dim() == 4 && key.dim() == 4 && query.size(0) == key.size(0) && query.size(1) == key.size(1) &&
                      query.size(3) == key.size(3) && query.size(2) > 0 && key.size(2) > 0 &&
                      query.scalar_type() == key.scalar_type(),
                  "avcl::importance: query and key must be (B, H, M, d) and (B, H, L, d) of one type");
}

inline void check_selection(const Tensor& importance, const Tensor& pruned, int64_t keep, int64_t chunk,
                            const Tensor& index) {
  STD_TORCH_CHECK(importance.dim() == 2 && index.dim() == 1 && index.size(0) == importance.size(0) &&
                      index.scalar_type() == ScalarType::Long,
                  "avcl: importance and index must be (B, L) and int64 (B,)");
  STD_TORCH_CHECK(pruned.dim() == 2 && pruned.size(0) == importance.size(0) && pruned.size(1) == importance.size(1) &&
                      pruned.scalar_type() == ScalarType::Bool,
                  "avcl: pruned must be bool (B, L)");
  STD_TORCH_CHECK(0 <= keep && keep <= importance.size(1), "avcl: keep: ", keep, " must be 0 to all patches");
  STD_TORCH_CHECK(chunk > 0 && importance.size(1) % chunk == 0, "avcl: chunk: ", chunk, " must divide the patches");
}

}  // namespace avcl
