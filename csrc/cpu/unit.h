// All CPU kernels, compiled once per instruction set by the unit_*.cpp beside this file.
#pragma once

#include "cpu/combine.h"
#include "cpu/policy_loss.h"
#include "cpu/sde_step.h"
#include "cpu/velocity_mse.h"
