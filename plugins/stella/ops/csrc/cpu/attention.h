// What the kernels of all instruction sets share: how importance is asked for, and how its work is split.
#pragma once

#include <cstddef>
#include <cstdint>

// Compiles the functions of a file for an instruction set, whatever the compiler's flags.
#define AVCL_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define AVCL_TARGET(set) AVCL_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define AVCL_TARGET_END AVCL_PRAGMA(clang attribute pop)
#else
#define AVCL_TARGET(set) AVCL_PRAGMA(GCC target(set))
#define AVCL_TARGET_END
#endif

namespace avcl {

enum class Type { kFloat, kDouble, kBFloat16, kHalf };

// A (B, H, L, d) tensor as it lies in memory; strides in elements.
struct Heads {
  const void* data;
  Type type;
  int64_t length, clip, head, row, column;
};

// Column means of a softmax: `scale` times log2(e) is for powers of 2. One task adds up a group of rows of one clip;
// groups depend on the sizes alone, never on the number of threads.
struct Question {
  static constexpr int64_t kRows = 288, kGroups = 16;
  Heads query, key;
  int64_t depth;
  double scale;
  int64_t blocks, units, per_group, groups;

  Question(const Heads& query, const Heads& key, int64_t heads, int64_t depth, double scale)
      : query(query),
        key(key),
        depth(depth),
        scale(scale),
        blocks((query.length + kRows - 1) / kRows),
        units(heads * blocks),
        per_group((units + kGroups - 1) / kGroups),
        groups((units + per_group - 1) / per_group) {}

  bool wide() const { return query.type == Type::kDouble; }  // double in, double out; else float
};

struct Kernels {
  const char* name;
  int64_t padding;  // of the number of keys, in elements
  size_t (*scratch)(const Question& question);  // bytes
  // Adds up the softmax columns of one group of one clip, into `sums` (padded keys).
  void (*importance)(const Question& question, int64_t clip, int64_t group, void* scratch, void* sums);
};

const Kernels& generic();
#if defined(__x86_64__)
const Kernels& avx2();
const Kernels& avx512();
#endif

// The best that this processor has, or the one named `wanted`; null where it has none of that name.
const Kernels* kernels(const char* wanted = nullptr);

}  // namespace avcl
