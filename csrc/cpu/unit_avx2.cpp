#define DANCEOPD_UNIT avx2
#include "cpu/unit.h"

namespace danceopd {
const CpuKernels kAvx2Kernels = {avx2::combine, avx2::velocity_mse, avx2::policy_loss, avx2::sde_step};
}
