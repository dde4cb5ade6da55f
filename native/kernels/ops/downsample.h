// Downsampling by a 2x2 convolution of signs, or with layer norm.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// Items are tokens of the result. `fused` takes bits and batch norm and reads x, the grid; `general` reads n there.
struct DownsampleArgs {
  long height, width, channels, out_channels;  // of the input grid
  const float *norm_scale, *norm_shift;        // [channels]; `fused` only
  Linear conv;                                 // inputs in the order (row, column, channel)
  const float *slope, *out_shift;              // [out_channels]
  const float* position;                       // [height/2*width/2][out_channels]
  const float* x;
  float* out;
};

struct DownsampleKernels {
  void (*fused)(const DownsampleArgs&, long begin, long end, void* scratch);
  void (*general)(const DownsampleArgs&, long begin, long end, void* scratch);
};

namespace {

struct DownsampleScratch {
  float* pool;     // [token][channel]
  uint32_t* bits;  // [position and word][token]
  uint32_t* index;
  BHVIT_INLINE DownsampleScratch(Scratch& s, const DownsampleArgs& a)
      : pool(s.take<float>(kMaxBlock * a.channels)),
        bits(s.take<uint32_t>(kMaxBlock * 4 * a.channels / kWordBits)),
        index(s.take<uint32_t>(kIndexWords * kMaxBlock * 4 * a.channels / kWordBits)) {}
};

struct DownsampleGeneralScratch {
  float* patches;  // [token][row, column, channel]
  float* pool;     // [token][channel]
  LinearScratch linear;
  BHVIT_INLINE DownsampleGeneralScratch(Scratch& s, const DownsampleArgs& a)
      : patches(s.take<float>(kMaxBlock * 4 * a.channels)),
        pool(s.take<float>(kMaxBlock * a.channels)),
        linear(s, a.conv.inputs, a.conv.outputs) {}
};

}  // namespace
}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

void downsample(const DownsampleArgs& args, long begin, long end, void* memory) {
  const DownsampleArgs a = args;
  const long width = a.width / 2, words = a.channels / kWordBits;
  const DownsampleScratch scratch = scratch_of<DownsampleScratch>(memory, a);
  float* const pool = scratch.pool;
  u32* const bits = scratch.bits;
  const f32x16 quarter = splatf(0.25f);

  for_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    for (int t = 0; t < T; t++) {
      const long row = (first + t) / width, column = (first + t) % width;
      const float* corner = a.x + (2 * row * a.width + 2 * column) * a.channels;
      const long steps[4] = {0, a.channels, a.width * a.channels, (a.width + 1) * a.channels};
      for (long c = 0; c < a.channels; c += kLanes) {
        const f32x16 scale = loadf(a.norm_scale + c), shift = loadf(a.norm_shift + c);
        const f32x16 threshold = loadf(a.conv.threshold + c);
        f32x16 n[4];
        for (int p = 0; p < 4; p++) {
          n[p] = loadf(corner + steps[p] + c) * scale + shift;
          set_bits<T>(bits + p * words * T, t, c, mask_ge(n[p], threshold));
        }
        store(pool + t * a.channels + c, ((n[0] + n[1]) + (n[2] + n[3])) * quarter);
      }
    }
    const u32* const patches = prepared<T>(bits, T, 4 * words, scratch.index);
    for (long o = 0; o < a.out_channels; o += kLanes) {
      const f32x16 scale = loadf(a.conv.scale + o), shift = loadf(a.conv.shift + o), slope = loadf(a.slope + o);
      const f32x16 out_shift = loadf(a.out_shift + o);
      BHVIT_EACH_PRODUCT(T, static_cast<int32_t>(-2 * a.channels), patches, T, weight_tile(a.conv.bits, o, 4 * words),
                         4 * words) {
        const long at = (first + t) * a.out_channels + o;
        const f32x16 residual = loadf(pool + t * a.channels + o % a.channels);
        const f32x16 y = prelu((product * scale + shift) + residual, slope);
        store(a.out + at, (y + out_shift) + loadf(a.position + at));
      };
    }
  });
}

void downsample_general(const DownsampleArgs& args, long begin, long end, void* memory) {
  const DownsampleArgs a = args;
  const long width = a.width / 2, channels = a.channels;
  const DownsampleGeneralScratch scratch = scratch_of<DownsampleGeneralScratch>(memory, a);
  const LinearScratch s = scratch.linear;
  float *const patches = scratch.patches, *const pool = scratch.pool;

  for_few_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    for (int t = 0; t < T; t++) {
      const long row = (first + t) / width, column = (first + t) % width;
      const float* corner = a.x + (2 * row * a.width + 2 * column) * channels;
      const long steps[4] = {0, channels, a.width * channels, (a.width + 1) * channels};
      for (long c = 0; c < channels; c += kLanes) {
        f32x16 n[4];
        for (int p = 0; p < 4; p++) {
          n[p] = loadf(corner + steps[p] + c);
          store(patches + (4 * t + p) * channels + c, n[p]);
        }
        store(pool + t * channels + c, ((n[0] + n[1]) + (n[2] + n[3])) * splatf(0.25f));
      }
    }
    linear<T>(a.conv, patches, s, [&](long o, const f32x16(&y)[T]) {
      const f32x16 slope = loadf(a.slope + o), out_shift = loadf(a.out_shift + o);
      for (int t = 0; t < T; t++) {
        const long at = (first + t) * a.out_channels + o;
        const f32x16 z = prelu(y[t] + loadf(pool + t * channels + o % channels), slope);
        store(a.out + at, (z + out_shift) + loadf(a.position + at));
      }
    });
  });
}

constexpr DownsampleKernels downsample_kernels() { return {.fused = downsample, .general = downsample_general}; }

}  // namespace
}  // namespace bhvit

#endif
