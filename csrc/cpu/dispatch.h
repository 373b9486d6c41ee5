// The ops on CPU tensors. `threads` is an upper bound; small tensors stay on the calling thread.
#pragma once

#include "core/arguments.h"

namespace danceopd {

constexpr int64_t kParallelElements =
    32768;  // per thread at least: waking one costs about as much as this many

namespace cpu {

void combine(const CombineArgs& a, int threads);
void route(const RouteArgs& a, int threads);
void velocity_mse(const VelocityMSEArgs& a, int threads);
void policy_loss(const PolicyLossArgs& a, int threads);
void sde_step(const SDEArgs& a, int threads);

}  // namespace cpu
}  // namespace danceopd
