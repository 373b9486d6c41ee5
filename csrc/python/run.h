// Running an op where its tensors live.
#pragma once

#include "cpu/dispatch.h"
#include "cuda/launch.h"
#include "python/tensor.h"

namespace danceopd::python {

class WithoutGil {
 public:
  explicit WithoutGil(bool worth_it) : state_(worth_it ? PyEval_SaveThread() : nullptr) {}
  ~WithoutGil() {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

template <class Args>
using CpuOp = void (*)(const Args&, int threads);
template <class Args>
using CudaOp = void (*)(const Args&, int device, uintptr_t stream);

template <class Args>
void run(const Args& args, const Tensor& like, CpuOp<Args> on_cpu, [[maybe_unused]] CudaOp<Args> on_cuda) {
#if defined(DANCEOPD_CUDA_BUILT)
  if (like.device != kCpu) {
    const uintptr_t stream = current_stream(like.device);
    WithoutGil released(true);
    return on_cuda(args, like.device, stream);
  }
#endif
  const bool large = like.elements() >= kParallelElements;
  const int threads = large ? thread_count() : 1;
  WithoutGil released(large);
  on_cpu(args, threads);
}

#if defined(DANCEOPD_CUDA_BUILT)
#define DANCEOPD_RUN(op, args, like) run(args, like, &cpu::op, &cuda::op)
#else
#define DANCEOPD_RUN(op, args, like) run(args, like, &cpu::op, decltype(&cuda::op){nullptr})
#endif

}  // namespace danceopd::python
