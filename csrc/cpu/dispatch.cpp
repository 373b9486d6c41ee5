#include "cpu/dispatch.h"

#include <cstring>

#include "core/dtype.h"
#include "core/reduce.h"
#include "cpu/isa.h"
#include "cpu/thread_pool.h"
#include "ops/route.h"

namespace danceopd::cpu {
namespace {

int useful_threads(int64_t elements, int threads) {
  const int64_t most = elements / kParallelElements;
  return static_cast<int>(most < threads ? (most < 1 ? 1 : most) : threads);
}

void route_samples(const RouteArgs& a, int64_t begin, int64_t end) {
  const int64_t sample_bytes = a.per_sample * bytes_of(a.dtype);
  const uint64_t nan = Route::nan_bits(a.dtype);
  for (int64_t b = begin; b < end; ++b) {
    char* out = static_cast<char*>(a.output) + b * sample_bytes;
    const char* in = Route::source(a, b, sample_bytes);
    if (in != nullptr) {
      std::memcpy(out, in, sample_bytes);
    } else {
      for (int64_t i = 0; i < a.per_sample; ++i)
        std::memcpy(out + i * bytes_of(a.dtype), &nan, bytes_of(a.dtype));
    }
  }
}

// The final pass of core/reduce.h: a sample's partials to its loss.
template <class A>
void finish_samples(const VelocityMSEArgs& a) {
  const int64_t blocks = blocks_per_sample(a.per_sample);
  for (int64_t b = 0; b < a.batch; ++b) {
    const A* partials = static_cast<const A*>(a.partials) + b * blocks;
    double lane[kThreads] = {};
    for (int64_t j = 0; j < blocks; ++j) lane[j % kThreads] += static_cast<double>(partials[j]);
    for (int apart = kThreads / 2; apart > 0; apart /= 2) {
      for (int t = 0; t < apart; ++t) lane[t] += lane[t + apart];
    }
    static_cast<A*>(a.loss)[b] =
        static_cast<A>(value_of(a.weight, b) * lane[0] / static_cast<double>(a.per_sample));
  }
}

}  // namespace

void combine(const CombineArgs& a, int threads) {
  struct Task {
    const CombineArgs& a;
    decltype(CpuKernels::combine) kernel;
  } task = {a, cpu_kernels().combine};
  parallel_for(
      a.batch * tiles_per_sample(a.per_sample), useful_threads(a.batch * a.per_sample, threads),
      [](const void* p, int64_t begin, int64_t end) {
        const Task& task = *static_cast<const Task*>(p);
        task.kernel(task.a, begin, end);
      },
      &task);
}

void route(const RouteArgs& a, int threads) {
  parallel_for(
      a.batch, useful_threads(a.batch * a.per_sample, threads),
      [](const void* p, int64_t begin, int64_t end) {
        route_samples(*static_cast<const RouteArgs*>(p), begin, end);
      },
      &a);
}

void velocity_mse(const VelocityMSEArgs& a, int threads) {
  struct Task {
    const VelocityMSEArgs& a;
    decltype(CpuKernels::velocity_mse) kernel;
  } task = {a, cpu_kernels().velocity_mse};
  parallel_for(
      a.batch * blocks_per_sample(a.per_sample), useful_threads(a.batch * a.per_sample, threads),
      [](const void* p, int64_t begin, int64_t end) {
        const Task& task = *static_cast<const Task*>(p);
        task.kernel(task.a, begin, end);
      },
      &task);
  a.student.dtype == DType::f64 ? finish_samples<double>(a) : finish_samples<float>(a);
}

}  // namespace danceopd::cpu
