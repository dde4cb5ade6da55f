// Choosing the kernels of this processor.

#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace bhvit {

// Names of the instruction sets that this machine can run, the fastest first. "scalar" is last, but in WebAssembly,
// whose module has one set.
std::vector<std::string> available_isas();

// The kernels called `isa`; "auto" stands for the name in the environment variable BHVIT_ISA, or else the
// fastest. Throws std::invalid_argument for a name that is unknown or that this machine cannot run.
const KernelTable& kernels_for(const std::string& isa);

}  // namespace bhvit
