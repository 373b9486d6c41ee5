// The native functions Python calls, with the C calling convention: at 64 elements the call is the cost, not
// the kernel.
#pragma once

#include "python/tensor.h"

namespace danceopd::python {

// What kCalls wraps. Each is told in its source which arguments it reads; tensors come first, then numbers.
PyObject* guide(const Reader& reader, PyObject* const* in);
PyObject* euler_step(const Reader& reader, PyObject* const* in);
PyObject* heun_step(const Reader& reader, PyObject* const* in);
PyObject* ab2_step(const Reader& reader, PyObject* const* in);
PyObject* dpmpp_2m_step(const Reader& reader, PyObject* const* in);
PyObject* add_noise(const Reader& reader, PyObject* const* in);
PyObject* blend(const Reader& reader, PyObject* const* in);
PyObject* route(const Reader& reader, PyObject* const* in);
PyObject* velocity_mse(const Reader& reader, PyObject* const* in);
PyObject* policy_loss(const Reader& reader, PyObject* const* in);
PyObject* sde_step(const Reader& reader, PyObject* const* in);

// The same for Python. They take as an additional first argument whether torch's dispatcher calls (True) or
// the user (False), and return None where they do not take the arguments as they are.
extern PyMethodDef kCalls[];

}  // namespace danceopd::python
