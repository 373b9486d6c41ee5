// The native functions Python calls, with the C calling convention: at 64 elements the call is the cost, not
// the kernel.
#pragma once

#include <Python.h>

namespace danceopd::python {

// guide, euler_step, add_noise, blend, route, velocity_mse. Each takes as its first argument whether torch's
// dispatcher calls (True) or the user (False), and returns None where it does not take the arguments as they
// are.
extern PyMethodDef kCalls[];

}  // namespace danceopd::python
