// As much of CUDA as csrc/cuda uses, for an ordinary C++ compiler. The CUDA sources are compiled as they are,
// with this header in the place of the toolkit's.
//
// A launch runs at once, on the host: block after block, and within a block one thread at a time. A thread
// keeps its turn until it ends or reaches __syncthreads, so no run depends on the machine's scheduler, and
// whatever a missing barrier lets a thread read too early is read too early every time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time

// 16 bytes that are accessed at once: the sanitizer complains where the address is no multiple of 16.
struct __attribute__((may_alias, aligned(16))) uint4 {
  unsigned x, y, z, w;
};

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

void __syncthreads();

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}

// -- the runtime ----------------------------------------------------------------------------------------

using cudaStream_t = struct CUstream_st*;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorInvalidDevice = 101 };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76 };

struct cudaDeviceProp {
  char name[256];
  int major, minor;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDriverGetVersion(int* version);

namespace cuda_on_host {

// The order in which the blocks of a grid and the threads of a block take their turns. Correct kernels
// compute the same in any.
enum class Order { rising, falling };
void set_order(Order order);

// How many launches ran, and on which device and stream the last one did.
struct Launches {
  int64_t count;
  int device;
  cudaStream_t stream;
};
Launches launches();

cudaError_t run_grid(dim3 grid, dim3 block, cudaStream_t stream, const std::function<void()>& kernel);

template <class... Parameters, size_t... indices>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<indices...>) {
  kernel(*static_cast<Parameters*>(arguments[indices])...);
}

}  // namespace cuda_on_host

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments, size_t,
                             cudaStream_t stream) {
  return cuda_on_host::run_grid(grid, block, stream, [&] {
    cuda_on_host::call(kernel, arguments, std::index_sequence_for<Parameters...>{});
  });
}
