#include "python/calls.h"

#include <pybind11/pybind11.h>

namespace danceopd::python {
namespace {

using Call = PyObject* (*)(const Reader&, PyObject* const*);

template <Call call, int count>
PyObject* wrapped(PyObject*, PyObject* const* in, Py_ssize_t n) {
  if (n != count + 1) {
    return PyErr_Format(PyExc_TypeError, "expected %d arguments, got %zd", count + 1, n);
  }
  try {
    const Reader reader(in[0] == Py_True ? Caller::dispatcher : Caller::user);
    return call(reader, in + 1);
  } catch (const NotPlain&) {
    PyErr_Clear();
    Py_RETURN_NONE;
  } catch (pybind11::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

template <Call call, int count>
constexpr PyMethodDef method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&wrapped<call, count>)),
          METH_FASTCALL, nullptr};
}

}  // namespace

PyMethodDef kCalls[] = {
    method<guide, 4>("guide"),
    method<euler_step, 7>("euler_step"),
    method<heun_step, 6>("heun_step"),
    method<ab2_step, 9>("ab2_step"),
    method<dpmpp_2m_step, 6>("dpmpp_2m_step"),
    method<add_noise, 4>("add_noise"),
    method<blend, 3>("blend"),
    method<route, 2>("route"),
    method<velocity_mse, 13>("velocity_mse"),
    method<policy_loss, 7>("policy_loss"),
    method<sde_step, 8>("sde_step"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace danceopd::python
