// Choosing the kernels of this processor.

#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace bhvit {

// Names of the instruction sets that this machine can run, the fastest first; "scalar" is always last.
std::vector<std::string> available_isas();

// The kernels called `isa`; "auto" takes what the environment variable BHVIT_ISA names, or else the
// fastest. Throws std::invalid_argument for a name that is unknown or that this machine cannot run.
const KernelTable& kernels_for(const std::string& isa);

}  // namespace bhvit
