// Downsampling by a 2x2 convolution of floats.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// Items are tokens of the result.
struct DownsampleFloatArgs {
  long height, width, channels, out_channels;  // of the input grid
  const float* weight;                         // [out_channels/16][4*channels][16]
  const float* bias;                           // [out_channels]; with batch norm
  const float *scale, *shift;                  // [out_channels]; with layer norm
  const float* position;                       // [height/2*width/2][out_channels]
  const float* x;
  float* out;
};

struct DownsampleFloatKernels {
  void (*tokens)(const DownsampleFloatArgs&, long begin, long end);
};

}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

void downsample_float(const DownsampleFloatArgs& args, long begin, long end) {
  const DownsampleFloatArgs a = args;
  const long width = a.width / 2;
  for_few_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    const float* corner[T];
    for (int t = 0; t < T; t++) {
      corner[t] = a.x + (2 * ((first + t) / width) * a.width + 2 * ((first + t) % width)) * a.channels;
    }
    for (long o = 0; o < a.out_channels; o += kLanes) {
      const float* weight = a.weight + o * 4 * a.channels;
      f32x16 y[T];
      for (int t = 0; t < T; t++) y[t] = a.bias ? loadf(a.bias + o) : splatf(0.0f);
      for (long row = 0; row < 2; row++) {
        const long offset = row * a.width * a.channels;  // both columns of a row lie side by side
        for (long k = 0; k < 2 * a.channels; k++, weight += kLanes) {
          const f32x16 w = loadf(weight);
          for (int t = 0; t < T; t++) y[t] = y[t] + splatf(corner[t][offset + k]) * w;
        }
      }
      for (int t = 0; t < T; t++) {
        const long at = (first + t) * a.out_channels + o;
        store(a.out + at, a.bias ? y[t] + loadf(a.position + at) : y[t]);
      }
    }
    if (a.bias) return;
    const long from = first * a.out_channels;
    layer_norms<T>(a.out + from, a.out_channels, a.scale, a.shift, a.out + from);
    for (long at = from; at < from + T * a.out_channels; at += kLanes) {
      store(a.out + at, loadf(a.out + at) + loadf(a.position + at));
    }
  });
}

constexpr DownsampleFloatKernels downsample_float_kernels() { return {.tokens = downsample_float}; }

}  // namespace
}  // namespace bhvit

#endif
