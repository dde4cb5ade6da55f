// The kernels of each instruction set, for those who choose; not for the files that are compiled for one.

#pragma once

#include <vector>

#include "training/kernels.h"

namespace bhvit::training {

struct IsaKernels {
  const char* name;  // "scalar": what every processor of the architecture has
  const Table<float>* floats;
  const Table<double>* doubles;
};

// Those that this machine can run, the fastest first.
std::vector<IsaKernels> available_kernels();

}  // namespace bhvit::training
