// The instruction sets a CPU offers and the one in use.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace danceopd {

std::vector<std::string> available_isas();  // lowest first
std::string current_isa();

// Throws std::invalid_argument, naming the choices, for a set this CPU (or this build) does not have.
void set_isa(const std::string& name);

// The best set, or the lower one that the environment variable DANCEOPD_CPU_ISA asks for. Throws as set_isa
// does.
void choose_isa_from_environment();

const CpuKernels& cpu_kernels();

}  // namespace danceopd
