// The sum of a grid and a coarser one that is upsampled by 2 (nearest).

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// Items are tokens of x, which is changed in place.
struct UpsampleAddArgs {
  long width, channels;  // of x
  const float* coarse;
  float* x;
};

struct UpsampleAddKernels {
  void (*tokens)(const UpsampleAddArgs&, long begin, long end);
};

}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

void upsample_add(const UpsampleAddArgs& args, long begin, long end) {
  const UpsampleAddArgs a = args;
  for (long token = begin; token < end; token++) {
    const long row = token / a.width, column = token % a.width;
    float* x = a.x + token * a.channels;
    const float* coarse = a.coarse + (row / 2 * (a.width / 2) + column / 2) * a.channels;
    for (long c = 0; c < a.channels; c += kLanes) store(x + c, loadf(x + c) + loadf(coarse + c));
  }
}

constexpr UpsampleAddKernels upsample_add_kernels() { return {.tokens = upsample_add}; }

}  // namespace
}  // namespace bhvit

#endif
