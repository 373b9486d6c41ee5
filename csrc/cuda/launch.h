// The ops on CUDA tensors. They only enqueue: no synchronisation, no allocation, nothing but `stream`, so
// they may be captured into a graph. They throw std::runtime_error with CUDA's own words when a launch fails.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/arguments.h"

namespace danceopd::cuda {

void combine(const CombineArgs& a, int device, uintptr_t stream);
void route(const RouteArgs& a, int device, uintptr_t stream);
void velocity_mse(const VelocityMSEArgs& a, int device, uintptr_t stream);
void policy_loss(const PolicyLossArgs& a, int device, uintptr_t stream);
void sde_step(const SDEArgs& a, int device, uintptr_t stream);

// Whether kernels can run on this device: a driver for the linked runtime, and compute capability 7.5 or
// newer.
bool usable(int device);

struct Status {
  int runtime;                       // version of the linked runtime, e.g. 13000
  int driver;                        // newest runtime the installed driver serves; 0 without a driver
  std::vector<std::string> devices;  // "NVIDIA H200 (sm_90)"
  std::string problem;               // why there is no device; empty when there is one
};

Status status();

}  // namespace danceopd::cuda
