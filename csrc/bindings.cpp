// The module `_danceopd`: the native calls, and what it can say about itself.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/isa.h"
#include "cuda/launch.h"
#include "python/calls.h"
#include "python/tensor.h"

namespace py = pybind11;

namespace danceopd {
namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = DANCEOPD_VERSION;
  info["compiler"] = DANCEOPD_COMPILER;
  info["cpu_isa"] = current_isa();
  info["cpu_isas"] = available_isas();
#if defined(DANCEOPD_CUDA_BUILT)
  const cuda::Status status = cuda::status();
  info["cuda_built"] = true;
  info["cuda_archs"] = DANCEOPD_CUDA_ARCHS;
  info["cuda_runtime"] = status.runtime;
  info["cuda_driver"] = status.driver;
  info["cuda_devices"] = status.devices;
  info["cuda_problem"] = status.problem;
#else
  info["cuda_built"] = false;
  info["cuda_archs"] = "";
  info["cuda_runtime"] = 0;
  info["cuda_driver"] = 0;
  info["cuda_devices"] = std::vector<std::string>();
  info["cuda_problem"] = "the extension was built without CUDA";
#endif
  return info;
}

}  // namespace
}  // namespace danceopd

PYBIND11_MODULE(_danceopd, m) {
  m.doc() = "Compiled kernels of danceopd; use danceopd.ops.";
  m.attr("__version__") = DANCEOPD_VERSION;
  danceopd::choose_isa_from_environment();
  m.def("bind_torch", [](const py::dict& names) { danceopd::python::bind_torch(names.ptr()); });
  m.def("build_info", &danceopd::build_info);
  m.def("cuda_usable", [](int device) {
#if defined(DANCEOPD_CUDA_BUILT)
    return danceopd::cuda::usable(device);
#else
    return device < 0;  // no such device
#endif
  });
  m.def("set_cpu_isa", &danceopd::set_isa);
  if (PyModule_AddFunctions(m.ptr(), danceopd::python::kCalls) != 0) throw py::error_already_set();
}
