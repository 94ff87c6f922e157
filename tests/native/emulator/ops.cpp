// The CUDA ops under the namespace `avcl_emulated`, run by the emulator on tensors of the CPU.
#define AVCL_EMULATION
#define AVCL_NAMESPACE avcl_emulated
#define AVCL_DEVICE CPU
#include "cuda.h"

#include "cuda/ops.cu"
