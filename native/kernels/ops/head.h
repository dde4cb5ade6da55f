// The classifier: the mean of all tokens, then a linear layer.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// `features` (items are groups of 16 channels), then `logits` (groups of 16 classes).
struct HeadArgs {
  long tokens, channels, classes;
  const float *norm_scale, *norm_shift;  // [channels]; null if x is normalised already
  const float* weight;                   // [ceil(classes/16)][channels][16], or null:
  const uint16_t* half_weight;           // the same in half precision, all finite
  const float* bias;                     // [classes rounded up to 16]
  const float* x;
  float* features;  // [channels]
  float* logits;    // [classes rounded up to 16]
};

struct HeadKernels {
  void (*features)(const HeadArgs&, long begin, long end);
  void (*logits)(const HeadArgs&, long begin, long end);
};

}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

void head_features(const HeadArgs& a, long begin, long end) {
  for (long c = begin * kLanes; c < end * kLanes; c += kLanes) {
    f32x16 total = loadf(a.x + c);
    for (long t = 1; t < a.tokens; t++) total = total + loadf(a.x + t * a.channels + c);
    const f32x16 mean = total / splatf(static_cast<float>(a.tokens));
    store(a.features + c, a.norm_scale ? mean * loadf(a.norm_scale + c) + loadf(a.norm_shift + c) : mean);
  }
}

template <class Weights>
BHVIT_INLINE void head_logits_of(const HeadArgs& a, long begin, long end, Weights weights) {
  // Eight groups of classes at a time, so that their sums, each in a fixed order, overlap.
  for_blocks<8>(begin, end, [&]<int T>(long first) {
    f32x16 y[T];
    for (int t = 0; t < T; t++) y[t] = loadf(a.bias + (first + t) * kLanes);
    for (long c = 0; c < a.channels; c++) {
      const f32x16 feature = splatf(a.features[c]);
      for (int t = 0; t < T; t++) y[t] = y[t] + feature * weights(((first + t) * a.channels + c) * kLanes);
    }
    for (int t = 0; t < T; t++) store(a.logits + (first + t) * kLanes, y[t]);
  });
}

void head_logits(const HeadArgs& args, long begin, long end) {
  const HeadArgs a = args;
  if (a.half_weight) {
    head_logits_of(a, begin, end, [&](long at) { return load_half_precision(a.half_weight + at); });
  } else {
    head_logits_of(a, begin, end, [&](long at) { return loadf(a.weight + at); });
  }
}

constexpr HeadKernels head_kernels() { return {.features = head_features, .logits = head_logits}; }

}  // namespace
}  // namespace bhvit

#endif
