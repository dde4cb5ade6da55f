// The stem: patches of the image become tokens.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// Items are rows of tokens.
struct StemArgs {
  long height, width, in_chans, patch, channels;
  const float* weight;                   // [channels/16][in_chans*patch*patch][16]
  const float* bias;                     // [channels]
  const float *norm_scale, *norm_shift;  // [channels], of layer norm; null with batch norm, which is in the weights
  bool gelu;
  const float* position;  // [height*width][channels]
  const float* image;     // (in_chans, height*patch, width*patch)
  float* x;               // [height*width][channels]
};

struct StemKernels {
  void (*rows)(const StemArgs&, long begin, long end);
};

}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

BHVIT_INLINE f32x16 activate(const f32x16& y, bool gelu) {
  if (!gelu) return y;
  const f32x16 erf = erf32(y * splatf(0.70710678f));
  return y * (splatf(0.5f) * (splatf(1.0f) + erf));
}

// `fixed_patch` is a patch edge that the compiler may count on, or 0.
template <long fixed_patch>
BHVIT_INLINE void stem_rows(const StemArgs& args, long begin, long end) {
  const StemArgs a = args;
  const long patch = fixed_patch ? fixed_patch : a.patch, inputs = a.in_chans * patch * patch;
  const long image_width = a.width * patch, image_size = a.height * patch * image_width;
  for (long row = begin; row < end; row++) {
    const auto block = [&]<int T>(long first) {
      const float* corner = a.image + row * patch * image_width + first * patch;
      for (long c = 0; c < a.channels; c += kLanes) {
        const float* weight = a.weight + c * inputs;
        f32x16 y[T];
        for (int t = 0; t < T; t++) y[t] = loadf(a.bias + c);
        for (long channel = 0; channel < a.in_chans; channel++) {
          for (long i = 0; i < patch; i++) {
            const float* in = corner + channel * image_size + i * image_width;
            for (long j = 0; j < patch; j++, weight += kLanes, in++) {
              const f32x16 w = loadf(weight);
              for (int t = 0; t < T; t++) y[t] = y[t] + splatf(in[t * patch]) * w;
            }
          }
        }
        for (int t = 0; t < T; t++) {
          store(a.x + (row * a.width + first + t) * a.channels + c, y[t]);
        }
      }
      const long token = (row * a.width + first) * a.channels;
      if (a.norm_scale) layer_norms<T>(a.x + token, a.channels, a.norm_scale, a.norm_shift, a.x + token);
      for (long at = token; at < token + T * a.channels; at += kLanes) {
        store(a.x + at, activate(loadf(a.x + at), a.gelu) + loadf(a.position + at));
      }
    };
    if constexpr (fixed_patch) {
      for_blocks<kBlock>(0, a.width, block);
    } else {
      for_few_blocks<kBlock>(0, a.width, block);
    }
  }
}

void stem(const StemArgs& a, long begin, long end) {
  switch (a.patch) {
    case 2: return stem_rows<2>(a, begin, end);
    case 4: return stem_rows<4>(a, begin, end);
    default: return stem_rows<0>(a, begin, end);
  }
}

constexpr StemKernels stem_kernels() { return {.rows = stem}; }

}  // namespace
}  // namespace bhvit

#endif
