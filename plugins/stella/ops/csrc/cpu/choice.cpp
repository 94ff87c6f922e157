// Which kernels this processor runs.
#include <atomic>
#include <cstring>
#include <vector>

#include "attention.h"

namespace avcl {
namespace {

// The best first.
std::vector<const Kernels*> usable() {
  std::vector<const Kernels*> all;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq"))
    all.push_back(&avx512());
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&avx2());
#endif
  all.push_back(&generic());
  return all;
}

}  // namespace

const Kernels* kernels(const char* wanted) {
  static const std::vector<const Kernels*> all = usable();
  static std::atomic<const Kernels*> chosen = all.front();
  if (!wanted) return chosen;
  for (const Kernels* one : all)
    if (!*wanted || !std::strcmp(wanted, one->name)) return chosen = one;
  return nullptr;
}

}  // namespace avcl

// For `avcl doctor` and tests: the kernels in use, or, if `wanted` names some, those from now on ("": the best).
extern "C" __attribute__((visibility("default"))) const char* avcl_kernels(const char* wanted) {
  const avcl::Kernels* found = avcl::kernels(wanted);
  return found ? found->name : nullptr;
}
