// Which kernels this processor runs.
#include <atomic>
#include <cstring>
#include <vector>

#include "attention.h"

#if defined(AVCL_HAS_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace avcl {
namespace {

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
#endif

#if defined(AVCL_HAS_AMX)
// Whether the processor has tiles of bf16 and Linux lets this process use them, which it has to be asked for.
bool has_amx() {
  constexpr unsigned kBFloat16 = 1u << 22, kTiles = 1u << 24;
  constexpr long kAskForState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (kBFloat16 | kTiles)) return false;
  return syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
}
#endif

// The best first.
std::vector<const Kernels*> usable() {
  std::vector<const Kernels*> all;
#if defined(__x86_64__)
  __builtin_cpu_init();
#if defined(AVCL_HAS_AMX)
  if (has_avx512() && has_amx()) all.push_back(&amx());
#endif
  if (has_avx512()) all.push_back(&avx512());
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
