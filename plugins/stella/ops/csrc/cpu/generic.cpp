// The kernels for any processor: vectors of 16 bytes.
#include "attention.h"

#define AVCL_ISA generic_set
#define AVCL_NAME "generic"
#define AVCL_BYTES 16
#define AVCL_ROWS 6
#include "kernel.h"

const avcl::Kernels& avcl::generic() { return generic_set::kernels; }
