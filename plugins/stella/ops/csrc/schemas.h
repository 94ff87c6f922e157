// The ops of the namespace `avcl`. Python compares these very strings before it loads a library.
#pragma once

#define AVCL_IMPORTANCE "importance(Tensor query, Tensor key, float scale, float temperature) -> Tensor"
#define AVCL_CORRELATION \
  "correlation(Tensor key, Tensor past, Tensor now, Tensor top, float scale, float temperature) -> Tensor"
#define AVCL_PRUNE "prune(Tensor correlation, SymInt seed, int use, Tensor index) -> Tensor"
#define AVCL_SAMPLE \
  "sample(Tensor importance, Tensor pruned, SymInt keep, SymInt seed, int use, Tensor index) -> Tensor"
#define AVCL_SELECT_CHUNKS                                                                               \
  "select_chunks(Tensor importance, Tensor pruned, SymInt keep, SymInt chunk, str cut, SymInt seed, Tensor " \
  "index) -> Tensor"

// Kept in every library, so that one from another version is recognised before its kernels are registered.
extern "C" __attribute__((visibility("default"), used)) inline const char* avcl_schemas() {
  return AVCL_IMPORTANCE "\n" AVCL_CORRELATION "\n" AVCL_PRUNE "\n" AVCL_SAMPLE "\n" AVCL_SELECT_CHUNKS;
}
