// Which kernels this processor runs.
#include <cstring>

#include "attention.h"

namespace avcl {
namespace {

const Kernels* chosen = nullptr;

}  // namespace

const Kernels* kernels(const char* wanted) {
  if (chosen && !wanted) return chosen;
  const Kernels* all[3] = {};
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq"))
    all[count++] = &avx512();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all[count++] = &avx2();
#endif
  all[count++] = &generic();
  for (int i = 0; i < count; ++i)
    if (!wanted || !*wanted || !std::strcmp(wanted, all[i]->name)) return chosen = all[i];
  return nullptr;
}

}  // namespace avcl

// For `avcl doctor` and tests: the kernels in use, or, if `wanted` names some, those from now on ("": the best).
extern "C" __attribute__((visibility("default"))) const char* avcl_kernels(const char* wanted) {
  const avcl::Kernels* found = avcl::kernels(wanted);
  return found ? found->name : nullptr;
}
