// The CPU kernels as the dispatcher sees them: one table per instruction set.
#pragma once

#include "core/arguments.h"
#include "core/portable.h"

namespace danceopd {

constexpr int64_t kTile = 1024;  // elements converted and computed at a time: a few 4 KB buffers, all in L1

inline namespace DANCEOPD_UNIT {

DANCEOPD_HD int64_t tiles_per_sample(int64_t per_sample) {
  return (per_sample + kTile - 1) / kTile;
}

}  // namespace DANCEOPD_UNIT

struct CpuKernels {
  // Tiles [begin, end) of batch * tiles_per_sample. Every element stands alone, so any split gives the same
  // bits.
  void (*combine)(const CombineArgs&, int64_t begin, int64_t end);
  // Reduction blocks [begin, end) of batch * blocks_per_sample: partials, and the gradient where asked for.
  void (*velocity_mse)(const VelocityMSEArgs&, int64_t begin, int64_t end);
  // The same of all elements as one sample.
  void (*policy_loss)(const PolicyLossArgs&, int64_t begin, int64_t end);
  // The same blocks: mean, sample, and partials of the log-probability.
  void (*sde_step)(const SDEArgs&, int64_t begin, int64_t end);
};

extern const CpuKernels kBaselineKernels;
#if defined(DANCEOPD_X86)
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
#endif

}  // namespace danceopd
