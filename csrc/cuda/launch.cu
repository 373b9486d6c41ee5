#define DANCEOPD_UNIT cuda_unit
#include <limits>
#include <stdexcept>

#include "cuda/combine.cuh"
#include "cuda/launch.h"
#include "cuda/policy_loss.cuh"
#include "cuda/route.cuh"
#include "cuda/sde_step.cuh"
#include "cuda/velocity_mse.cuh"

namespace danceopd::cuda {
namespace {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // cleared here, or torch's next check would report it a second time
  throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(error) + ".");
}

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    changed_ = previous_ != device;
    if (changed_) check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

template <class Args>
void launch(void (*kernel)(Args), const Args& args, int64_t blocks, int device, uintptr_t stream,
            const char* name) {
  if (blocks > std::numeric_limits<int32_t>::max()) {
    throw std::runtime_error(std::string(name) +
                             " needs more thread blocks than CUDA allows; split the batch.");
  }
  DeviceGuard guard(device);
  void* pointers[] = {const_cast<Args*>(&args)};
  check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), pointers, 0,
                         reinterpret_cast<cudaStream_t>(stream)),
        name);
}

template <class Op>
void combine_as(const CombineArgs& a, int device, uintptr_t stream, const char* name) {
  launch(combine_kernel<Op>, a, a.batch * blocks_per_sample(a.per_sample), device, stream, name);
}

}  // namespace

void combine(const CombineArgs& a, int device, uintptr_t stream) {
  switch (a.op) {
    case CombineOp::guide:
      return combine_as<Linear<1, true>>(a, device, stream, "guide");
    case CombineOp::euler_step:
      return combine_as<Linear<2, false>>(a, device, stream, "euler_step");
    case CombineOp::guided_euler_step:
      return combine_as<Linear<2, true>>(a, device, stream, "euler_step");
    case CombineOp::heun_step:
      return combine_as<Linear<3, false>>(a, device, stream, "heun_step");
    case CombineOp::ab2_step:
      return combine_as<Linear<3, false>>(a, device, stream, "ab2_step");
    case CombineOp::guided_ab2_step:
      return combine_as<Linear<3, true>>(a, device, stream, "ab2_step");
    case CombineOp::first_dpmpp_2m_step:
      return combine_as<DPMpp2M<true>>(a, device, stream, "dpmpp_2m_step");
    case CombineOp::dpmpp_2m_step:
      return combine_as<DPMpp2M<false>>(a, device, stream, "dpmpp_2m_step");
    case CombineOp::add_noise:
      return combine_as<Linear<2, false>>(a, device, stream, "add_noise");
    case CombineOp::blend:
      return combine_as<Fold>(a, device, stream, "blend");
  }
}

void route(const RouteArgs& a, int device, uintptr_t stream) {
  const int64_t blocks = (a.per_sample * bytes_of(a.dtype) + kRouteBytes - 1) / kRouteBytes;
  launch(route_kernel, a, a.batch * blocks, device, stream, "route");
}

void velocity_mse(const VelocityMSEArgs& a, int device, uintptr_t stream) {
  launch(velocity_mse_kernel, a, a.batch * blocks_per_sample(a.per_sample), device, stream, "velocity_mse");
  launch(velocity_mse_final_kernel, a, a.batch, device, stream, "velocity_mse");
  if (a.mean != nullptr) launch(velocity_mse_mean_kernel, a, 1, device, stream, "velocity_mse");
}

void policy_loss(const PolicyLossArgs& a, int device, uintptr_t stream) {
  launch(policy_loss_kernel, a, blocks_per_sample(a.elements), device, stream, "policy_loss");
  launch(policy_loss_final_kernel, a, 1, device, stream, "policy_loss");
}

void sde_step(const SDEArgs& a, int device, uintptr_t stream) {
  launch(sde_step_kernel, a, a.batch * blocks_per_sample(a.per_sample), device, stream, "sde_step");
  launch(sde_step_final_kernel, a, a.batch, device, stream, "sde_step");
}

bool usable(int device) {
  int major = 0, minor = 0;
  const bool known =
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess;
  if (!known) cudaGetLastError();
  return known && 10 * major + minor >= 75;
}

Status status() {
  Status s = {0, 0, {}, ""};
  cudaRuntimeGetVersion(&s.runtime);
  cudaDriverGetVersion(&s.driver);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) s.problem = cudaGetErrorString(error);
  for (int i = 0; error == cudaSuccess && i < count; ++i) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) == cudaSuccess) {
      s.devices.push_back(std::string(p.name) + " (sm_" + std::to_string(p.major) + std::to_string(p.minor) +
                          ")");
    }
  }
  cudaGetLastError();
  return s;
}

}  // namespace danceopd::cuda
