#include "python/read.h"

#include "core/dtype.h"

namespace danceopd::python {
namespace {

constexpr double kSmallestStd = 1e-18;            // 1 / (2 std^2) fits a float32
constexpr double kHuge = 1.7976931348623157e308;  // the largest finite double

bool all_in(const Param& p, int64_t batch, double low, double high) {
  for (int64_t b = 0; b < (p.each == nullptr ? 1 : batch); ++b) {
    const double value = value_of(p, b);
    if (!(low <= value && value <= high)) return false;
  }
  return true;
}

// Samples whose parameters the host can compare: none where one of them is on a device.
int64_t comparable(const Reader& reader, const Tensor& like, bool vary) {
  if (reader.caller() != Caller::user || (vary && like.device != kCpu)) return 0;
  return vary ? like.batch : 1;
}

Param read_param(const Reader& reader, PyObject* object, const Tensor& like, double low, double high) {
  Param p = {0.0, nullptr, 1, DType::f64};
  if (PyFloat_Check(object)) {
    p.value = PyFloat_AS_DOUBLE(object);
  } else if (PyLong_CheckExact(object)) {
    p.value = PyLong_AsDouble(object);
    if (PyErr_Occurred() != nullptr) throw NotPlain();
  } else {
    const Tensor t = reader.read(object);
    require(t.device == like.device && t.dimensions == 1 && t.batch == like.batch && t.dtype != DType::u8);
    p.each = t.data;
    p.dtype = t.dtype;
  }
  if (reader.caller() == Caller::user && (p.each == nullptr || like.device == kCpu)) {
    require(all_in(p, like.batch, low, high));
  }
  return p;
}

struct Span {
  uintptr_t begin, end;
};

Span span_of(const void* data, int64_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  return {begin, begin + static_cast<uintptr_t>(bytes)};
}

bool apart(const Span& a, const Span& b) {
  return a.end <= b.begin || b.end <= a.begin;
}

}  // namespace

Tensor read_first(const Reader& reader, PyObject* object, Gradient gradient) {
  Tensor t = reader.read(object, gradient);
  require(t.dtype != DType::u8 && (t.dtype != DType::f64 || t.device == kCpu));  // f64 kernels: CPU only
  return t;
}

Tensor read_like(const Reader& reader, PyObject* object, const Tensor& like, bool same_dtype) {
  Tensor t = reader.read(object);
  require(same_shape(t, like) && t.device == like.device && t.dtype != DType::u8);
  require(same_dtype ? t.dtype == like.dtype : (t.dtype == DType::f64) == (like.dtype == DType::f64));
  return t;
}

Tensor read_out(const Reader& reader, PyObject* object, const Tensor& like, const CombineArgs& args) {
  Tensor t = reader.read(object);
  require(same_shape(t, like) && t.device == like.device && t.dtype == like.dtype);
  const Span written = span_of(t.data, t.elements() * bytes_of(t.dtype));
  for (int k = 0; k < args.inputs; ++k) {
    const Input& in = args.input[k];
    const bool same = in.data == t.data && in.dtype == t.dtype;
    require(same || apart(written, span_of(in.data, t.elements() * bytes_of(in.dtype))));
  }
  for (int k = 0; k < args.params; ++k) {
    const Param& p = args.param[k];
    const int64_t values = p.each == nullptr ? 0 : (like.batch - 1) * p.stride + 1;
    require(apart(written, span_of(p.each, values * bytes_of(p.dtype))));
  }
  return t;
}

Param read_sigma(const Reader& reader, PyObject* object, const Tensor& like) {
  return read_param(reader, object, like, 0.0, 1.0);
}

Param read_finite(const Reader& reader, PyObject* object, const Tensor& like) {
  return read_param(reader, object, like, -kHuge, kHuge);
}

Param read_std(const Reader& reader, PyObject* object, const Tensor& like) {
  return read_param(reader, object, like, kSmallestStd, kHuge);
}

double read_number(PyObject* object) {
  require(PyFloat_Check(object) || PyLong_CheckExact(object));
  const double value = PyFloat_AsDouble(object);
  require(-kHuge <= value && value <= kHuge && PyErr_Occurred() == nullptr);
  return value;
}

Param read_scale(const Reader& reader, PyObject* object, const Tensor& like) {
  if (PyFloat_Check(object)) return {PyFloat_AS_DOUBLE(object), nullptr, 1, DType::f64};
  const Tensor t = reader.read(object);
  require(t.device == like.device && t.dimensions == 1 && t.batch == 1 && t.dtype != DType::u8);
  return {0.0, t.data, 0, t.dtype};
}

Seed read_seed(const Reader& reader, PyObject* object, const Tensor& like) {
  if (PyLong_CheckExact(object)) {
    const int64_t seed = PyLong_AsLongLong(object);
    require(seed >= 0 && PyErr_Occurred() == nullptr);
    return {seed, nullptr};
  }
  const Tensor each = reader.read_index(object);
  require(each.device == like.device && each.dimensions == 1 && each.batch == like.batch);
  return {0, static_cast<const int64_t*>(each.data)};
}

void require_descending(const Reader& reader, const Param& high, const Param& low, const Tensor& like) {
  const int64_t batch = comparable(reader, like, high.each != nullptr || low.each != nullptr);
  for (int64_t b = 0; b < batch; ++b) require(value_of(high, b) >= value_of(low, b));
}

void require_moved(const Reader& reader, const Param& before, const Param& now, const Param& then,
                   const Tensor& like) {
  const bool vary = before.each != nullptr || now.each != nullptr || then.each != nullptr;
  const int64_t batch = comparable(reader, like, vary);
  for (int64_t b = 0; b < batch; ++b) {
    const bool moves = value_of(now, b) != value_of(then, b);
    require(moves ? value_of(before, b) > value_of(now, b) : value_of(before, b) >= value_of(now, b));
  }
}

Param weight_of_field(const Reader& reader, const Tensor& weights, const Tensor& like, int count, int k) {
  const bool each = weights.dimensions == 2;
  const char* column = static_cast<const char*>(weights.data) + k * bytes_of(weights.dtype);
  const Param p = {0.0, column, each ? count : 0, weights.dtype};
  if (reader.caller() == Caller::user && like.device == kCpu) {
    require(all_in(p, each ? like.batch : 1, -kHuge, kHuge));
  }
  return p;
}

int read_length(PyObject* list) {
  require(PyList_Check(list) || PyTuple_Check(list));
  const Py_ssize_t length = PySequence_Fast_GET_SIZE(list);
  require(length >= 1 && length <= kMaxInputs);
  return static_cast<int>(length);
}

Ref read_fields(PyObject* list) {
  read_length(list);
  Ref fields(PySequence_Tuple(list));
  require(static_cast<bool>(fields));
  return fields;
}

}  // namespace danceopd::python
