// Token mixer of three grouped dilated convolutions: see MixerArgs in kernels.h.

#pragma once

#include "vectors_inl.h"

namespace bhvit {
namespace {

void mixer_bits(const MixerArgs& args, long begin, long end) {
  const MixerArgs a = args;
  const f32x16 zero = splatf(0.0f);
  for (long c = 0; c < a.channels; c += kLanes) {
    const f32x16 scale = loadf(a.norm_scale + c), shift = loadf(a.norm_shift + c);
    uint16_t* plane = a.planes + c / kLanes * a.plane_size;
    for (long row = begin; row < end; row++) {
      uint16_t* bits = plane + (row + kBorder) * a.plane_stride + kBorder;
      const float* x = a.x + row * a.width * a.channels + c;
      for (long column = 0; column < a.width; column++) {
        bits[column] = static_cast<uint16_t>(mask_ge(loadf(x + column * a.channels) * scale + shift, zero));
      }
    }
  }
}

// The words of all taps of one row of tokens: [group][word][token], for one dilation. A weight's inputs
// are (tap, channel of the group), so half q of a word list is tap q / halves, half q % halves.
BHVIT_INLINE void gather_taps(const MixerArgs& a, long row, long dilation, u32* words) {
  const long halves = a.channels / a.groups / kLanes;  // of one tap
  for (long group = 0; group < a.groups; group++) {
    const auto half_row = [&](long q) {
      const long tap = q / halves;
      const long tap_row = row + kBorder + (tap / 3 - 1) * dilation;
      const long tap_column = kBorder + (tap % 3 - 1) * dilation;
      return a.planes + (group * halves + q % halves) * a.plane_size + tap_row * a.plane_stride + tap_column;
    };
    for (long w = 0; w < a.words; w++, words += a.row_stride) {
      const uint16_t* low = half_row(2 * w);
      if (2 * w + 1 < 9 * halves) {
        const uint16_t* high = half_row(2 * w + 1);
        for (long t = 0; t < a.width; t++) words[t] = low[t] | static_cast<u32>(high[t]) << 16;
      } else {
        for (long t = 0; t < a.width; t++) words[t] = low[t];
      }
    }
  }
}

// 1 if the tap before position i is outside 0..edge-1, plus 2 if the tap after it is.
BHVIT_INLINE long border_class(long i, long edge, long dilation) {
  return (i < dilation ? 1 : 0) + (i + dilation >= edge ? 2 : 0);
}

void mixer_conv(const MixerArgs& args, long begin, long end, void* memory) {
  const MixerArgs a = args;
  u32* const words = static_cast<u32*>(memory);
  const long dilation_words = a.groups * a.words * a.row_stride;
  const long tiles = a.channels / kLanes, tiles_of_group = tiles / a.groups;

  for (long row = begin; row < end; row++) {
    for (long d = 0; d < kDilations; d++) gather_taps(a, row, 2 * d + 1, words + d * dilation_words);
    for (long tile = 0; tile < tiles; tile++) {
      const long c = tile * kLanes;
      const u32* inputs = words + tile / tiles_of_group * a.words * a.row_stride;
      const f32x16 out_scale = loadf(a.out_scale + c), out_shift = loadf(a.out_shift + c);
      for_blocks<kBlock>(0, a.width, [&]<int T>(long first) {
        f32x16 sum[T];
        for (int t = 0; t < T; t++) sum[t] = splatf(0.0f);
        for (long d = 0; d < kDilations; d++) {
          const long dilation = 2 * d + 1;
          const int32_t* start =
              a.start + (d * kBorderClasses + 4 * border_class(row, a.height, dilation)) * a.channels + c;
          i32x16 acc[T];
          if (first >= dilation && first + T + dilation <= a.width) {  // all taps of the block's rows inside
            acc[0] = loadi(start);
            for (int t = 1; t < T; t++) acc[t] = acc[0];
          } else {
            for (int t = 0; t < T; t++) {
              acc[t] = loadi(start + border_class(first + t, a.width, dilation) * a.channels);
            }
          }
          xor_count<T>(acc, inputs + d * dilation_words + first, a.row_stride,
                       a.weight + (d * tiles + tile) * a.words * kLanes, a.words);
          const long p = d * a.channels + c;
          const f32x16 scale = loadf(a.scale2 + p), shift = loadf(a.shift + p), slope = loadf(a.slope + p);
          for (int t = 0; t < T; t++) {
            const f32x16 z = prelu(to_float(acc[t]) * scale + shift, slope);
            sum[t] = sum[t] + z;
          }
        }
        float* x = a.x + (row * a.width + first) * a.channels + c;
        for (int t = 0; t < T; t++, x += a.channels) store(x, loadf(x) + (sum[t] * out_scale + out_shift));
      });
    }
  }
}

}  // namespace
}  // namespace bhvit
