// What the kernels of all instruction sets share: how a score is asked for, and how work is split.
#pragma once

#include <cstddef>
#include <cstdint>

// Older compilers do not know these instructions, and other systems not how to ask for them.
#if defined(__x86_64__) && defined(__linux__) && \
    (defined(__clang__) ? __clang_major__ >= 12 : defined(__GNUC__) && __GNUC__ >= 11)
#define AVCL_HAS_AMX
#endif

namespace avcl {

enum class Type { kFloat, kDouble, kBFloat16, kHalf };

// A (B, H, L, d) tensor as it lies in memory; strides in elements.
struct Heads {
  const void* data;
  Type type;
  int64_t length;
  int64_t clip, head, row, column;
};

// Which rows of which heads one task adds up. The split depends on the sizes alone, never on the threads.
struct Split {
  static constexpr int64_t kRows = 288, kGroups = 16;
  int64_t blocks, units, per_group, groups;

  Split(int64_t heads, int64_t rows)
      : blocks((rows + kRows - 1) / kRows),
        units(heads * blocks),
        per_group((units + kGroups - 1) / kGroups),
        groups((units + per_group - 1) / per_group) {}
};

struct Kernels {
  const char* name;
  int64_t padding;  // of the number of keys, in elements of float; half as many suffice for double
  size_t (*scratch)(int64_t keys, int64_t depth, bool wide);
  // Adds up softmax columns over one group of one clip, into sums (padded keys) of float or, if wide, double.
  void (*importance)(const Heads& query, const Heads& key, const Split& split, int64_t clip, int64_t group,
                     int64_t depth, double scale, bool wide, void* scratch, void* sums);
  // One clip's correlation at `top`, into `out` of float or, if wide, double.
  void (*correlation)(const Heads& key, const Heads& past, const Heads& now, int64_t clip, int64_t heads,
                      int64_t depth, const int64_t* top, int64_t top_stride, int64_t tops, double scale, bool wide,
                      void* scratch, void* out);
};

const Kernels& generic();
#if defined(__x86_64__)
const Kernels& avx2();
const Kernels& avx512();
#endif
#if defined(AVCL_HAS_AMX)
const Kernels& amx();
#endif

// The best that this processor has, or the one named `wanted`; null where it has none of that name.
const Kernels* kernels(const char* wanted = nullptr);

}  // namespace avcl
