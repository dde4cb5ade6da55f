// The token mixer that is a mean over 3x3 neighbours.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// Items are tokens; n is whole before it starts.
struct PoolingArgs {
  long height, width, channels;
  bool layer;
  const float *out_scale, *out_shift;  // [channels]
  const float* n;
  float* x;
};

struct PoolingKernels {
  void (*tokens)(const PoolingArgs&, long begin, long end, void* scratch);
};

namespace {

struct PoolingScratch {
  float* means;  // [channel], before layer norm
  BHVIT_INLINE PoolingScratch(Scratch& s, const PoolingArgs& a)
      : means(a.layer ? s.take<float>(a.channels) : nullptr) {}
};

}  // namespace
}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

void pooling(const PoolingArgs& args, long begin, long end, void* memory) {
  const PoolingArgs a = args;
  float* const sums = scratch_of<PoolingScratch>(memory, a).means;
  for (long token = begin; token < end; token++) {
    const long row = token / a.width, column = token % a.width;
    float* x = a.x + token * a.channels;
    for (long c = 0; c < a.channels; c += kLanes) {
      f32x16 sum = splatf(0.0f);
      for (long i = row ? row - 1 : 0; i <= row + 1 && i < a.height; i++) {
        for (long j = column ? column - 1 : 0; j <= column + 1 && j < a.width; j++) {
          sum = sum + loadf(a.n + (i * a.width + j) * a.channels + c);
        }
      }
      const f32x16 mean = sum / splatf(9.0f);
      if (a.layer) {
        store(sums + c, mean);
      } else {
        store(x + c, loadf(x + c) + (mean * loadf(a.out_scale + c) + loadf(a.out_shift + c)));
      }
    }
    if (a.layer) add_normed(sums, a.channels, a.out_scale, a.out_shift, sums, x);
  }
}

constexpr PoolingKernels pooling_kernels() { return {.tokens = pooling}; }

}  // namespace
}  // namespace bhvit

#endif
