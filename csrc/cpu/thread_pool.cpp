#include "cpu/thread_pool.h"

#include <pthread.h>

#include <cfenv>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace danceopd {
namespace {

constexpr int kMaxThreads = 256;

struct Job {
  RangeFunction f;
  const void* arguments;
  int64_t count;
  int ranges;
  std::fenv_t caller;  // denormals as the caller wants them, so that the number of threads changes no bits

  void run(int range) const { f(arguments, count * range / ranges, count * (range + 1) / ranges); }
};

class Pool {
 public:
  bool try_run(Job job) {
    std::unique_lock<std::mutex> one_job(busy_, std::try_to_lock);
    if (!one_job.owns_lock()) return false;
    if (!grow(job.ranges - 1)) return false;
    {
      std::lock_guard<std::mutex> lock(state_);
      job_ = job;
      next_range_ = 1;  // range 0 is the caller's
      unfinished_ = job.ranges - 1;
    }
    wake_.notify_all();
    job.run(0);
    std::unique_lock<std::mutex> lock(state_);
    while (next_range_ < job.ranges) work_one(lock);  // a worker that wakes late does not delay the job
    done_.wait(lock, [this] { return unfinished_ == 0; });
    return true;
  }

 private:
  bool grow(int workers) {
    try {
      for (; workers_ < workers; ++workers_) std::thread(&Pool::work, this).detach();
    } catch (const std::system_error&) {  // the process may not start more threads
    }
    return workers_ > 0;
  }

  // Takes the next range of the current job, under the lock, and runs it outside.
  void work_one(std::unique_lock<std::mutex>& lock) {
    const Job job = job_;
    const int range = next_range_++;
    lock.unlock();
    std::fesetenv(&job.caller);
    job.run(range);
    lock.lock();
    if (--unfinished_ == 0) done_.notify_one();
  }

  void work() {
    std::unique_lock<std::mutex> lock(state_);
    for (;;) {
      wake_.wait(lock, [this] { return next_range_ < job_.ranges; });
      work_one(lock);
    }
  }

  std::mutex busy_;   // held by the one caller whose job runs
  std::mutex state_;  // guards all that follows
  std::condition_variable wake_, done_;
  Job job_ = {};
  int next_range_ = 0;
  int unfinished_ = 0;
  int workers_ = 0;  // guarded by busy_
};

// Never destroyed: workers sleep in it until the process ends. A forked child inherits the memory but no
// workers, so it drops the parent's pool and makes its own on the next call.
std::mutex pool_guard;
Pool* pool = nullptr;

Pool& current_pool() {
  std::lock_guard<std::mutex> lock(pool_guard);
  if (pool == nullptr) {
    static bool registered = false;
    if (!registered) {
      registered = pthread_atfork([] { pool_guard.lock(); }, [] { pool_guard.unlock(); },
                                  [] {
                                    pool = nullptr;
                                    pool_guard.unlock();
                                  }) == 0;
    }
    pool = new Pool;
  }
  return *pool;
}

}  // namespace

void parallel_for(int64_t count, int threads, RangeFunction f, const void* arguments) {
  if (threads > kMaxThreads) threads = kMaxThreads;
  const int ranges = static_cast<int>(count < threads ? count : threads);
  Job job = {f, arguments, count, ranges, {}};
  if (ranges > 1 && std::fegetenv(&job.caller) == 0 && current_pool().try_run(job)) return;
  f(arguments, 0, count);
}

}  // namespace danceopd
