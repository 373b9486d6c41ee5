#include "cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(DANCEOPD_X86)
#include <cpuid.h>
#endif

namespace danceopd {
namespace {

struct Isa {
  const char* name;
  const CpuKernels* kernels;
};

std::vector<Isa> detect() {
  std::vector<Isa> found = {{"baseline", &kBaselineKernels}};
#if defined(DANCEOPD_X86)
  __builtin_cpu_init();
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
  if (f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    found.push_back({"avx2", &kAvx2Kernels});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      found.push_back({"avx512", &kAvx512Kernels});
    }
  }
#endif
  return found;
}

const std::vector<Isa>& available() {
  static const std::vector<Isa> found = detect();
  return found;
}

std::atomic<const Isa*> in_use{nullptr};

const Isa& current() {
  const Isa* isa = in_use.load(std::memory_order_acquire);
  return isa != nullptr ? *isa : available().back();
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : available()) names.emplace_back(isa.name);
  return names;
}

std::string current_isa() {
  return current().name;
}

void set_isa(const std::string& name) {
  std::string choices;
  for (const Isa& isa : available()) {
    if (name == isa.name) return in_use.store(&isa, std::memory_order_release);
    choices += (choices.empty() ? "" : ", ") + std::string(isa.name);
  }
  throw std::invalid_argument("DANCEOPD_CPU_ISA is '" + name +
                              "', but this CPU and build offer only: " + choices + ".");
}

void choose_isa_from_environment() {
  const char* name = std::getenv("DANCEOPD_CPU_ISA");
  if (name != nullptr && *name != '\0') set_isa(name);
}

const CpuKernels& cpu_kernels() {
  return *current().kernels;
}

}  // namespace danceopd
