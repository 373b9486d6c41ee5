#include "trial.h"

#include <sanitizer/asan_interface.h>

#include <cmath>
#include <cstring>
#include <sstream>

#include "core/dtype.h"

namespace danceopd::test {
namespace {

constexpr unsigned char kMargin = 0xff;  // NaN in every floating dtype
constexpr int64_t kPoison = 8;           // the sanitizer marks whole granules of this many bytes

const char* name(DType t) {
  switch (t) {
    case DType::f32:
      return "float32";
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    case DType::f64:
      return "float64";
    default:
      return "uint8";
  }
}

}  // namespace

Array::Array(DType dtype, int64_t count, int64_t offset)
    : dtype_(dtype),
      count_(count),
      margin_(offset * bytes_of(dtype)),
      bytes_(count * bytes_of(dtype)),
      memory_(new char[margin_ + bytes_]) {
  std::memset(memory_.get(), kMargin, margin_ + bytes_);
  __asan_poison_memory_region(memory_.get(), margin_ / kPoison * kPoison);
}

Array::~Array() {
  __asan_unpoison_memory_region(memory_.get(), margin_);
}

void Array::set(int64_t i, double value) {
  if (dtype_ == DType::u8) {
    static_cast<uint8_t*>(data())[i] = static_cast<uint8_t>(value);
  } else {
    store_scalar(data(), dtype_, i, value);
  }
}

bool Array::margin_is_untouched() const {
  for (int64_t i = margin_ / kPoison * kPoison; i < margin_; ++i) {
    if (static_cast<unsigned char>(memory_[i]) != kMargin) return false;
  }
  return true;
}

int64_t Array::difference(const Array& other) const {
  const int64_t size = bytes_of(dtype_);
  const char *mine = static_cast<const char*>(data()), *theirs = static_cast<const char*>(other.data());
  for (int64_t i = 0; i < count_; ++i) {
    if (std::memcmp(mine + i * size, theirs + i * size, size) == 0) continue;
    const bool nans = std::isnan(load_scalar<double>(mine, dtype_, i)) &&
                      std::isnan(load_scalar<double>(theirs, dtype_, i));
    if (!nans) return i;
  }
  return -1;
}

std::string Array::text(int64_t i) const {
  std::ostringstream out;
  out << std::hexfloat << load_scalar<double>(data(), dtype_, i);
  return out.str();
}

std::string text(const Setting& s) {
  std::ostringstream out;
  out << s.batch << " x " << s.per_sample << " " << name(s.sample) << " with " << name(s.velocity)
      << (s.offset == kVaried ? std::string(", varied offsets") : ", offset " + std::to_string(s.offset))
      << (s.each ? ", parameters per sample" : "") << (s.special ? ", special values" : "");
  return out.str();
}

int64_t Trial::next_offset() {
  static constexpr int64_t kOffsets[] = {0, 1, 0, 8, 3, 0, 5};
  return offset == kVaried ? kOffsets[arrays_++ % 7] : offset;
}

Input Trial::values(DType dtype, int64_t count) {
  static constexpr double kSpecial[] = {INFINITY, -INFINITY, NAN, 0.0, -0.0, 1e-39, -3e-6, 65519.0, 3e38};
  Array& array = keep(dtype, count);
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < count; ++i) {
    const bool marked = special && random_() % 16 == 0;
    array.set(i, marked ? kSpecial[random_() % 9] : normal(random_));
  }
  return {array.data(), dtype};
}

Input Trial::bits(DType dtype, int64_t count) {
  Array& array = keep(dtype, count);
  for (int64_t i = 0; i < count; ++i) array.set(i, random_() % 2);
  return {array.data(), dtype};
}

Param Trial::param(double low, double high) {
  static constexpr DType kDtypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
  std::uniform_real_distribution<double> uniform(low, high);
  if (!each && coin()) return {uniform(random_), nullptr, 1, DType::f64};
  const int64_t stride = each ? 1 + params_ % 2 : 0;
  Array& array = keep(kDtypes[params_++ % 4], (batch - 1) * stride + 1);
  for (int64_t i = 0; i < array.count(); ++i) array.set(i, uniform(random_));
  return {0.0, array.data(), stride, array.dtype()};
}

const int64_t* Trial::index(int64_t low, int64_t high) {
  Array& array = keep(DType::f64, batch);  // eight bytes each
  int64_t* data = static_cast<int64_t*>(array.data());
  for (int64_t b = 0; b < batch; ++b) data[b] = low + static_cast<int64_t>(random_() % (high - low + 1));
  return data;
}

// What the host side of a launch must have done: the device asked for, its stream, and the old device back.
void Trial::expect_launch(int64_t launches_before, int device, uintptr_t stream) {
  const cuda_on_host::Launches last = cuda_on_host::launches();
  int current = -1;
  cudaGetDevice(&current);
  if (last.count == launches_before) failures_.push_back("cuda: nothing was launched");
  if (last.device != device) failures_.push_back("cuda: launched on device " + std::to_string(last.device));
  if (last.stream != reinterpret_cast<cudaStream_t>(stream))
    failures_.push_back("cuda: launched on another stream");
  if (current != 0) failures_.push_back("cuda: left device " + std::to_string(current) + " current");
}

}  // namespace danceopd::test
