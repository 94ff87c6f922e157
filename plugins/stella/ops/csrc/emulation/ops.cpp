// The CUDA ops under the namespace `avcl_emulated`, run by the emulation on tensors of the CPU. For tests only.
#define AVCL_EMULATION
#define AVCL_NAMESPACE avcl_emulated
#define AVCL_DEVICE CPU
#include "cuda.h"

#include <torch/csrc/stable/library.h>

#include "../schemas.h"

STABLE_TORCH_LIBRARY_FRAGMENT(avcl_emulated, library) {
  library.def(AVCL_IMPORTANCE);
  library.def(AVCL_CORRELATION);
  library.def(AVCL_PRUNE);
  library.def(AVCL_SAMPLE);
  library.def(AVCL_SELECT_CHUNKS);
}

#include "../cuda/ops.cu"
