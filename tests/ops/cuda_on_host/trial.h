// One run of an op on the CPU kernels and on the CUDA kernels, and what came out of both.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/arguments.h"
#include "cpu/isa.h"
#include "cuda_runtime.h"

namespace danceopd::test {

// `count` elements that end where their allocation ends, and begin `offset` elements into it: an access past
// the end is seen by the sanitizer, one before the beginning by the sanitizer or in the margin.
class Array {
 public:
  Array(DType dtype, int64_t count, int64_t offset);
  ~Array();
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  void* data() const { return memory_.get() + margin_; }
  DType dtype() const { return dtype_; }
  int64_t count() const { return count_; }
  void set(int64_t i, double value);
  bool margin_is_untouched() const;
  // The first element with other bits than its peer, or -1; NaN equals NaN.
  int64_t difference(const Array& other) const;
  std::string text(int64_t i) const;

 private:
  DType dtype_;
  int64_t count_;
  int64_t margin_, bytes_;
  std::unique_ptr<char[]> memory_;
};

constexpr int kVaried = -1;

struct Setting {
  int64_t batch, per_sample;
  DType sample, velocity;  // a float32 sample may come with low precision velocities
  int offset;              // of the arrays, in elements; kVaried: another one for each
  bool each;               // parameters per sample
  bool special;            // some infinities, NaNs, subnormals and signed zeros
  unsigned seed;
};

std::string text(const Setting& setting);

// A result of an op: where its pointer sits in the arguments, and what it points to.
template <class Args>
struct Output {
  const char* name;
  void*& (*pointer)(Args&);
  DType dtype;
  int64_t count;
};

template <class Args>
using Outputs = std::vector<Output<Args>>;

class Trial : public Setting {
 public:
  explicit Trial(const Setting& setting) : Setting(setting), random_(setting.seed) {}

  int64_t elements() const { return batch * per_sample; }
  bool coin() { return random_() % 2 == 0; }  // for an op's own choices

  // Fresh operands.
  Input sample_like() { return values(sample, elements()); }
  Input velocity_like() { return values(velocity, elements()); }
  Input values(DType dtype, int64_t count);         // of a standard normal distribution
  Input bits(DType dtype, int64_t count);           // zeros and ones
  Param param(double low, double high);             // a number or a tensor; per sample if `each`
  const int64_t* index(int64_t low, int64_t high);  // one per sample

  // Runs the op on every instruction set of this CPU and, in two orders, through the CUDA sources.
  template <class Args>
  void compare(const Args& args, const Outputs<Args>& outputs, void (*on_cpu)(const Args&, int),
               void (*on_cuda)(const Args&, int, uintptr_t));

  const std::vector<std::string>& failures() const { return failures_; }

 private:
  using Results = std::list<Array>;

  int64_t next_offset();
  Array& keep(DType dtype, int64_t count) { return operands_.emplace_back(dtype, count, next_offset()); }
  template <class Args>
  Results prepare(Args& args, const Outputs<Args>& outputs);
  template <class Args>
  void expect(const Results& expected, const Results& found, const Outputs<Args>& outputs,
              const std::string& who);
  void expect_launch(int64_t launches_before, int device, uintptr_t stream);

  std::list<Array> operands_;
  std::vector<std::string> failures_;
  std::mt19937 random_;
  int arrays_ = 0;
  int params_ = 0;
};

// -- templates ------------------------------------------------------------------------------------------

template <class Args>
Trial::Results Trial::prepare(Args& args, const Outputs<Args>& outputs) {
  Results results;
  for (const Output<Args>& output : outputs) {
    output.pointer(args) = results.emplace_back(output.dtype, output.count, next_offset()).data();
  }
  return results;
}

template <class Args>
void Trial::expect(const Results& expected, const Results& found, const Outputs<Args>& outputs,
                   const std::string& who) {
  auto e = expected.begin(), f = found.begin();
  for (const Output<Args>& output : outputs) {
    const int64_t i = e->difference(*f);
    if (i >= 0) {
      failures_.push_back(who + ": " + output.name + "[" + std::to_string(i) + "] is " + f->text(i) +
                          ", the baseline CPU kernel has " + e->text(i));
    }
    if (!f->margin_is_untouched()) failures_.push_back(who + ": wrote before " + output.name);
    ++e, ++f;
  }
}

template <class Args>
void Trial::compare(const Args& args, const Outputs<Args>& outputs, void (*on_cpu)(const Args&, int),
                    void (*on_cuda)(const Args&, int, uintptr_t)) {
  Args call = args;
  Results expected;
  for (const std::string& isa : available_isas()) {
    set_isa(isa);
    Results results = prepare(call, outputs);
    on_cpu(call, 1);
    if (expected.empty()) expected.swap(results);
    expect(expected, results.empty() ? expected : results, outputs, isa);
  }
  for (auto order : {cuda_on_host::Order::rising, cuda_on_host::Order::falling}) {
    constexpr int kDevice = 1;
    constexpr uintptr_t kStream = 7;
    cuda_on_host::set_order(order);
    Results results = prepare(call, outputs);
    const int64_t before = cuda_on_host::launches().count;
    on_cuda(call, kDevice, kStream);
    expect_launch(before, kDevice, kStream);
    expect(expected, results, outputs,
           order == cuda_on_host::Order::rising ? "cuda" : "cuda in falling order");
  }
}

}  // namespace danceopd::test
