#define DANCEOPD_UNIT avx512
#include "cpu/unit.h"

namespace danceopd {
const CpuKernels kAvx512Kernels = {avx512::combine, avx512::velocity_mse, avx512::policy_loss,
                                   avx512::sde_step};
}
