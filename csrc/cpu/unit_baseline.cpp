#define DANCEOPD_UNIT baseline
#include "cpu/unit.h"

namespace danceopd {
const CpuKernels kBaselineKernels = {baseline::combine, baseline::velocity_mse, baseline::policy_loss,
                                     baseline::sde_step};
}
