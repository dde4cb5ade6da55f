// The stem: patches of the image become tokens.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// Items are rows of tokens.
struct StemArgs {
  long height, width, in_chans, patch, kernel, channels;
  const float* weight;                   // [channels/16][in_chans*kernel*kernel][16]
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

BHVIT_SHARED f32x16 activate(const f32x16& y, bool gelu) {
  if (!gelu) return y;
  const f32x16 erf = erf32(y * splatf(0.70710678f));
  return y * (splatf(0.5f) * (splatf(1.0f) + erf));
}

// `fixed_patch` and `fixed_kernel` are edges that the compiler may count on, or 0.
template <long fixed_patch, long fixed_kernel>
BHVIT_INLINE void stem_rows(const StemArgs& args, long begin, long end) {
  const StemArgs a = args;
  const long patch = fixed_patch ? fixed_patch : a.patch, kernel = fixed_kernel ? fixed_kernel : a.kernel;
  const long padding = (kernel - patch) / 2, inputs = a.in_chans * kernel * kernel;
  const long image_height = a.height * patch, image_width = a.width * patch, image_size = image_height * image_width;
  constexpr bool kWithin = fixed_patch && fixed_patch == fixed_kernel;  // no token reads outside the image
  // Tokens of a row with pixels outside the image, on the left and on the right.
  const long outside = (padding + patch - 1) / patch;
  for (long row = begin; row < end; row++) {
    const long top = row * patch - padding;
    const long first_row = kWithin || top >= 0 ? 0 : -top;
    const long last_row = kWithin || kernel <= image_height - top ? kernel : image_height - top;
    // Tokens of one block have the same columns of the kernel inside the image: all, or they are one token.
    const auto block = [&]<int T>(long first) {
      const long left = first * patch - padding;
      const long first_column = kWithin || T > 1 || left >= 0 ? 0 : -left;
      const long last_column = kWithin || T > 1 || kernel <= image_width - left ? kernel : image_width - left;
      for (long c = 0; c < a.channels; c += kLanes) {
        const float* weight = a.weight + c * inputs;
        f32x16 y[T];
        for (int t = 0; t < T; t++) y[t] = loadf(a.bias + c);
        for (long channel = 0; channel < a.in_chans; channel++) {
          for (long i = first_row; i < last_row; i++) {
            const float* in = a.image + channel * image_size + (top + i) * image_width;
            for (long j = first_column; j < last_column; j++) {
              const f32x16 w = loadf(weight + ((channel * kernel + i) * kernel + j) * kLanes);
              for (int t = 0; t < T; t++) y[t] = y[t] + splatf(in[left + t * patch + j]) * w;
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
    if constexpr (kWithin) {
      for_blocks<kBlock>(0, a.width, block);
    } else {
      const long left = outside < a.width ? outside : a.width;
      const long right = a.width - outside < left ? left : a.width - outside;
      for (long token = 0; token < left; token++) block.template operator()<1>(token);
      for_few_blocks<kBlock>(left, right, block);
      for (long token = right; token < a.width; token++) block.template operator()<1>(token);
    }
  }
}

void stem(const StemArgs& a, long begin, long end) {
  if (a.patch == 4 && a.kernel == 4) return stem_rows<4, 4>(a, begin, end);
#if !defined(BHVIT_FEW_INSTANCES)  // or one copy for the published models, one for all others
  if (a.patch == 2 && a.kernel == 2) return stem_rows<2, 2>(a, begin, end);
  if (a.patch == 2 && a.kernel == 4) return stem_rows<2, 4>(a, begin, end);
#endif
  stem_rows<0, 0>(a, begin, end);
}

constexpr StemKernels stem_kernels() { return {.rows = stem}; }

}  // namespace
}  // namespace bhvit

#endif
