#include "python/tensor.h"

#include <pybind11/pybind11.h>

#include "cuda/launch.h"

namespace danceopd::python {
namespace {

constexpr int kDTypes = 5;

// Interned names and torch's own objects; owned for the life of the process.
struct Torch {
  PyObject *tensor, *parameter;
  PyObject* dtype[kDTypes];
  PyObject* int64;
  PyObject *empty_like, *is_grad_enabled, *dispatch_modes, *function_transform, *num_threads, *raw_stream;
  PyObject *s_dtype, *s_shape, *s_is_cpu, *s_is_cuda, *s_requires_grad, *s_is_contiguous, *s_data_ptr,
      *s_get_device, *s_new_empty;
  PyObject* kw_dtype;
};

Torch torch = {};

PyObject* kept(PyObject* names, const char* name) {
  PyObject* object = PyDict_GetItemString(names, name);
  if (object == nullptr) throw pybind11::key_error(name);
  Py_INCREF(object);
  return object;
}

Ref checked(PyObject* result) {
  if (result == nullptr) throw pybind11::error_already_set();
  return Ref(result);
}

// For questions put to a tensor: one that cannot answer (sparse, without storage) is not plain.
Ref answered(PyObject* result) {
  if (result == nullptr) {
    PyErr_Clear();
    throw NotPlain();
  }
  return Ref(result);
}

Ref ask(PyObject* object, PyObject* method) {
  return answered(PyObject_CallMethodNoArgs(object, method));
}

bool attribute_is_true(PyObject* object, PyObject* name) {
  return answered(PyObject_GetAttr(object, name)).get() == Py_True;
}

void require_plain_type(PyObject* object) {
  const PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  if (type != torch.tensor && type != torch.parameter) throw NotPlain();
}

DType read_dtype(PyObject* dtype) {
  for (int i = 0; i < kDTypes; ++i) {
    if (dtype == torch.dtype[i]) return static_cast<DType>(i);
  }
  throw NotPlain();
}

int read_device(PyObject* object) {
  if (attribute_is_true(object, torch.s_is_cpu)) return kCpu;
#if defined(DANCEOPD_CUDA_BUILT)
  if (attribute_is_true(object, torch.s_is_cuda)) {
    const int device = static_cast<int>(PyLong_AsLong(ask(object, torch.s_get_device).get()));
    if (cuda::usable(device)) return device;
  }
#endif
  throw NotPlain();
}

void read_shape(Tensor& t) {
  t.shape = answered(PyObject_GetAttr(t.object, torch.s_shape));
  const Py_ssize_t dimensions = PyTuple_GET_SIZE(t.shape.get());
  if (dimensions == 0) throw NotPlain();
  t.per_sample = 1;
  for (Py_ssize_t i = 0; i < dimensions; ++i) {
    const int64_t size = PyLong_AsLongLong(PyTuple_GET_ITEM(t.shape.get(), i));
    if (size <= 0) {
      PyErr_Clear();
      throw NotPlain();
    }
    i == 0 ? t.batch = size : t.per_sample *= size;
  }
}

}  // namespace

void bind_torch(PyObject* names) {
  torch.tensor = kept(names, "Tensor");
  torch.parameter = kept(names, "Parameter");
  const char* dtypes[kDTypes] = {"float32", "bfloat16", "float16", "float64", "bool"};
  for (int i = 0; i < kDTypes; ++i) torch.dtype[i] = kept(names, dtypes[i]);
  torch.int64 = kept(names, "int64");
  torch.empty_like = kept(names, "empty_like");
  torch.is_grad_enabled = kept(names, "is_grad_enabled");
  torch.dispatch_modes = kept(names, "dispatch_modes");
  torch.function_transform = kept(names, "function_transform");
  torch.num_threads = kept(names, "get_num_threads");
  torch.raw_stream = kept(names, "raw_stream");
  torch.s_dtype = PyUnicode_InternFromString("dtype");
  torch.s_shape = PyUnicode_InternFromString("shape");
  torch.s_is_cpu = PyUnicode_InternFromString("is_cpu");
  torch.s_is_cuda = PyUnicode_InternFromString("is_cuda");
  torch.s_requires_grad = PyUnicode_InternFromString("requires_grad");
  torch.s_is_contiguous = PyUnicode_InternFromString("is_contiguous");
  torch.s_data_ptr = PyUnicode_InternFromString("data_ptr");
  torch.s_get_device = PyUnicode_InternFromString("get_device");
  torch.s_new_empty = PyUnicode_InternFromString("new_empty");
  torch.kw_dtype = PyTuple_Pack(1, torch.s_dtype);
}

Reader::Reader(Caller caller) : caller_(caller) {
  if (torch.tensor == nullptr) throw NotPlain();
  if (caller == Caller::dispatcher) return;
  grad_enabled_ = checked(PyObject_CallNoArgs(torch.is_grad_enabled)).get() == Py_True;
  const Ref modes = checked(PyObject_CallNoArgs(torch.dispatch_modes));
  if (PyLong_AsLong(modes.get()) != 0) throw NotPlain();
  if (checked(PyObject_CallNoArgs(torch.function_transform)).get() != Py_None) throw NotPlain();
}

void Reader::read_rest(Tensor& t) const {
  t.device = read_device(t.object);
  if (grad_enabled_ && attribute_is_true(t.object, torch.s_requires_grad)) throw NotPlain();
  if (ask(t.object, torch.s_is_contiguous).get() != Py_True) throw NotPlain();
  read_shape(t);
  // A lone element may be a lazily negated view, which only the dispatcher resolves (longer ones are never
  // contiguous).
  if (caller_ == Caller::user && t.elements() == 1) throw NotPlain();
  t.data = PyLong_AsVoidPtr(ask(t.object, torch.s_data_ptr).get());
  if (t.data == nullptr) throw NotPlain();
}

Tensor Reader::read(PyObject* object) const {
  require_plain_type(object);
  Tensor t;
  t.object = object;
  t.dtype = read_dtype(answered(PyObject_GetAttr(object, torch.s_dtype)).get());
  read_rest(t);
  return t;
}

Tensor Reader::read_index(PyObject* object) const {
  require_plain_type(object);
  Tensor t;
  t.object = object;
  if (answered(PyObject_GetAttr(object, torch.s_dtype)).get() != torch.int64) throw NotPlain();
  read_rest(t);
  return t;
}

namespace {

Tensor made(PyObject* result, const Tensor& like, DType dtype) {
  Tensor t;
  t.owner = checked(result);
  t.object = t.owner.get();
  t.dtype = dtype;
  t.device = like.device;
  t.data = PyLong_AsVoidPtr(checked(PyObject_CallMethodNoArgs(t.object, torch.s_data_ptr)).get());
  return t;
}

}  // namespace

Tensor new_like(const Tensor& like) {
  return made(PyObject_CallOneArg(torch.empty_like, like.object), like, like.dtype);
}

Tensor new_vector(const Tensor& like, int64_t size, DType dtype) {
  const Ref shape = checked(Py_BuildValue("(L)", static_cast<long long>(size)));
  PyObject* arguments[] = {like.object, shape.get(), torch.dtype[static_cast<int>(dtype)]};
  return made(PyObject_VectorcallMethod(torch.s_new_empty, arguments, 2, torch.kw_dtype), like, dtype);
}

bool same_shape(const Tensor& a, const Tensor& b) {
  return PyObject_RichCompareBool(a.shape.get(), b.shape.get(), Py_EQ) == 1;
}

int thread_count() {
  return static_cast<int>(PyLong_AsLong(checked(PyObject_CallNoArgs(torch.num_threads)).get()));
}

uintptr_t current_stream(int device) {
  const Ref index = checked(PyLong_FromLong(device));
  const Ref stream = checked(PyObject_CallOneArg(torch.raw_stream, index.get()));
  return reinterpret_cast<uintptr_t>(PyLong_AsVoidPtr(stream.get()));
}

}  // namespace danceopd::python
