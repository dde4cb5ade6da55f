// stem, norm, downsampling and head: see kernels.h for contracts.

#pragma once

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

void norm(const NormArgs& args, long begin, long end) {
  const NormArgs a = args;
  if (a.layer) {
    const long from = begin * a.channels;
    return layer_norm_rows(a.x + from, end - begin, a.channels, a.scale, a.shift, a.n + from);
  }
  for (long c = 0; c < a.channels; c += kLanes) {
    const f32x16 scale = loadf(a.scale + c), shift = loadf(a.shift + c);
    for (long at = begin * a.channels + c; at < end * a.channels; at += a.channels) {
      store(a.n + at, loadf(a.x + at) * scale + shift);
    }
  }
}

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
    for (long o = 0; o < a.out_channels; o += kLanes) {
      const f32x16 scale = loadf(a.conv.scale + o), shift = loadf(a.conv.shift + o), slope = loadf(a.slope + o);
      const f32x16 out_shift = loadf(a.out_shift + o);
      i32x16 acc[T];
      for (int t = 0; t < T; t++) acc[t] = splati(static_cast<int32_t>(-2 * a.channels));
      xor_count<T>(acc, bits, T, a.conv.bits + o * 4 * words, 4 * words);
      for (int t = 0; t < T; t++) {
        const long at = (first + t) * a.out_channels + o;
        const f32x16 residual = loadf(pool + t * a.channels + o % a.channels);
        const f32x16 y = prelu((to_float(acc[t]) * scale + shift) + residual, slope);
        store(a.out + at, (y + out_shift) + loadf(a.position + at));
      }
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

void downsample_float(const DownsampleArgs& args, long begin, long end) {
  const DownsampleArgs a = args;
  const long width = a.width / 2;
  for_few_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    const float* corner[T];
    for (int t = 0; t < T; t++) {
      corner[t] = a.x + (2 * ((first + t) / width) * a.width + 2 * ((first + t) % width)) * a.channels;
    }
    for (long o = 0; o < a.out_channels; o += kLanes) {
      const float* weight = a.weight_float + o * 4 * a.channels;
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

}  // namespace
}  // namespace bhvit
