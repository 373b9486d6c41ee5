#include "cuda_runtime.h"

#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {
namespace {

constexpr int kDevices = 2;
constexpr unsigned kMostThreads = 1024;
constexpr size_t kStackBytes = 32 << 10;

Order order = Order::rising;
int device = 0;
cudaError_t last_error = cudaSuccess;
Launches so_far = {0, -1, nullptr};

cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

template <class Index>
Index in_order(Index i, Index count) {
  return order == Order::rising ? i : count - 1 - i;
}

// The fibers behind the threads of a block. A fiber runs one CUDA thread after another; one that reaches a
// barrier keeps its fiber until the barrier opens, and the next fiber takes over the rest. So a kernel
// without barriers needs one fiber, and a kernel with them one per thread.
class Crew {
 public:
  void run_block(unsigned threads, const std::function<void()>& kernel) {
    kernel_ = &kernel;
    threads_ = threads;
    next_ = 0;
    for (size_t k = 0; next_ < threads_; ++k) {
      if (k == fibers_.size()) add_fiber();
      enter(*fibers_[k]);
    }
    while (!waiting_.empty()) {
      if (waiting_.size() != threads) {
        std::fprintf(stderr, "__syncthreads was reached by %zu of the %u threads of block %u\n",
                     waiting_.size(), threads, blockIdx.x);
        std::_Exit(1);
      }
      std::vector<Fiber*> released;
      released.swap(waiting_);
      for (Fiber* fiber : released) enter(*fiber);
    }
  }

  void wait_for_the_block() {
    const dim3 self = threadIdx;
    waiting_.push_back(running_);
    leave(*running_);
    threadIdx = self;
  }

 private:
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    void* sanitizer_stack = nullptr;
  };

  void add_fiber() {
    Fiber& fiber = *fibers_.emplace_back(std::make_unique<Fiber>());
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Crew::begin, 0);
  }

  // The sanitizer has to be told of every change of stacks, before and after it.
  void enter(Fiber& fiber) {
    void* sanitizer_stack = nullptr;
    running_ = &fiber;
    __sanitizer_start_switch_fiber(&sanitizer_stack, fiber.stack.get(), kStackBytes);
    swapcontext(&outside_, &fiber.context);
    __sanitizer_finish_switch_fiber(sanitizer_stack, nullptr, nullptr);
  }

  void leave(Fiber& fiber) {
    __sanitizer_start_switch_fiber(&fiber.sanitizer_stack, outside_stack_, outside_bytes_);
    swapcontext(&fiber.context, &outside_);
    __sanitizer_finish_switch_fiber(fiber.sanitizer_stack, &outside_stack_, &outside_bytes_);
  }

  static void begin();

  void work() {
    __sanitizer_finish_switch_fiber(nullptr, &outside_stack_, &outside_bytes_);
    for (;;) {
      while (next_ < threads_) {
        threadIdx = dim3(in_order(next_++, threads_), 0, 0);
        (*kernel_)();
      }
      leave(*running_);
    }
  }

  ucontext_t outside_;  // of run_block
  const void* outside_stack_ = nullptr;
  size_t outside_bytes_ = 0;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> waiting_;  // at the barrier, in the order of their arrival
  Fiber* running_ = nullptr;
  const std::function<void()>* kernel_ = nullptr;
  unsigned threads_ = 0;
  unsigned next_ = 0;  // the first thread of the block that nobody has begun
};

Crew crew;

void Crew::begin() {
  crew.work();
}

}  // namespace

void set_order(Order chosen) {
  order = chosen;
}

Launches launches() {
  return so_far;
}

cudaError_t run_grid(dim3 grid, dim3 block, cudaStream_t stream, const std::function<void()>& kernel) {
  const bool flat = grid.y == 1 && grid.z == 1 && block.y == 1 && block.z == 1;
  const bool sizes = grid.x >= 1 && grid.x <= static_cast<unsigned>(std::numeric_limits<int32_t>::max()) &&
                     block.x >= 1 && block.x <= kMostThreads;
  if (!flat || !sizes) return report(cudaErrorInvalidConfiguration);
  so_far = {so_far.count + 1, device, stream};
  gridDim = grid;
  blockDim = block;
  for (unsigned i = 0; i < grid.x; ++i) {
    blockIdx = dim3(in_order(i, grid.x), 0, 0);
    crew.run_block(block.x, kernel);
  }
  return cudaSuccess;
}

}  // namespace cuda_on_host

using namespace cuda_on_host;

void __syncthreads() {
  crew.wait_for_the_block();
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    default:
      return "no error";
  }
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* current) {
  *current = device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int chosen) {
  if (chosen < 0 || chosen >= kDevices) return report(cudaErrorInvalidDevice);
  device = chosen;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int of) {
  if (of < 0 || of >= kDevices) return report(cudaErrorInvalidDevice);
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int of) {
  if (of < 0 || of >= kDevices) return report(cudaErrorInvalidDevice);
  *properties = {"host", 9, 0};
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
