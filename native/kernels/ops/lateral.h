// A binary 1x1 unit of a segmentation's decoder.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// Items are tokens; n is whole before it starts.
struct LateralArgs {
  long channels, outputs;
  Linear linear;
  const float *slope, *out_shift;  // [outputs]
  const float* n;
  float* out;
};

struct LateralKernels {
  void (*fused)(const LateralArgs&, long begin, long end, void* scratch);
  void (*general)(const LateralArgs&, long begin, long end, void* scratch);
};

namespace {

struct LateralLayout {
  LinearScratch linear;
  BHVIT_INLINE LateralLayout(Scratch& s, const LateralArgs& a) : linear(s, a.channels, a.outputs) {}
};

}  // namespace
}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

// Channels o to o + 15 of the residual of one token.
BHVIT_INLINE f32x16 lateral_residual(const LateralArgs& a, const float* n, long o) {
  if (a.channels <= a.outputs) return loadf(n + o % a.channels);
  const long groups = a.channels / a.outputs;
  f32x16 sum = loadf(n + o);
  for (long i = 1; i < groups; i++) sum = sum + loadf(n + i * a.outputs + o);
  return sum * splatf(1.0f / static_cast<float>(groups));
}

template <int T>
BHVIT_INLINE void lateral_outputs(const LateralArgs& a, long first, long o, const f32x16 (&y)[T]) {
  const f32x16 slope = loadf(a.slope + o), out_shift = loadf(a.out_shift + o);
  for (int t = 0; t < T; t++) {
    const f32x16 z = prelu(y[t] + lateral_residual(a, a.n + (first + t) * a.channels, o), slope);
    store(a.out + (first + t) * a.outputs + o, z + out_shift);
  }
}

void lateral(const LateralArgs& args, long begin, long end, void* memory) {
  const LateralArgs a = args;
  const LinearScratch s = scratch_of<LateralLayout>(memory, a).linear;
  for_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    fused_linear<T>(a.linear, a.n + first * a.channels, s,
                    [&](long o, const f32x16(&y)[T]) { lateral_outputs<T>(a, first, o, y); });
  });
}

void lateral_general(const LateralArgs& args, long begin, long end, void* memory) {
  const LateralArgs a = args;
  const LinearScratch s = scratch_of<LateralLayout>(memory, a).linear;
  for_few_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    linear<T>(a.linear, a.n + first * a.channels, s,
              [&](long o, const f32x16(&y)[T]) { lateral_outputs<T>(a, first, o, y); });
  });
}

constexpr LateralKernels lateral_kernels() { return {.fused = lateral, .general = lateral_general}; }

}  // namespace
}  // namespace bhvit

#endif
