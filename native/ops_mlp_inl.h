// MLP with residuals, channel-group means and the 9-tap cross: see MlpArgs in kernels.h.
//
// A block of tokens goes through both layers at once: hidden values live in registers only, and leave as
// bits and as the running mean over the r hidden groups.

#pragma once

#include "vectors_inl.h"

namespace bhvit {
namespace {

// out[i*period + p] = n[(r*p + i) mod channels]: every r-th channel, starting at i.
BHVIT_INLINE void deinterleave(const float* n, long channels, long r, long period, float* out) {
  if (r == 1) {
    for (long c = 0; c < channels; c += kLanes) store(out + c, loadf(n + c));
    return;
  }
  const long share = channels / r;
  if (r <= kLanes && (r & (r - 1)) == 0 && share % 8 == 0) {
    // r scalars a row of `share`: columns of a table, which is what strided loads read best.
    for (long i = 0; i < r; i++) {
      for (long p = 0; p < share; p++) out[i * period + p] = n[r * p + i];
      for (long p = share; p < period; p++) out[i * period + p] = out[i * period + p - share];
    }
    return;
  }
  for (long i = 0; i < r; i++) {
    long from = i;
    for (long p = 0; p < period; p++) {
      out[i * period + p] = n[from];
      from += r;
      if (from >= channels) from -= channels;
    }
  }
}

void mlp(const MlpArgs& a, long begin, long end, void* memory) {
  const long channels = a.channels, r = a.hidden / channels;
  const long words = channels / kWordBits, hidden_words = a.hidden / kWordBits;
  Scratch scratch{static_cast<char*>(memory)};
  float* residual = scratch.take<float>(kMaxBlock * r * a.period);  // [token][i][period]
  float* mean = scratch.take<float>(kMaxBlock * channels);          // [token][channel]
  u32* bits = scratch.take<u32>(kMaxBlock * words);                 // [word][token]
  u32* hidden_bits = scratch.take<u32>(kMaxBlock * hidden_words);   // [word][token]
  const f32x16 share = splatf(1.0f / static_cast<float>(r));

  for_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    for (int t = 0; t < T; t++) {
      const float* n = a.n + (first + t) * channels;
      deinterleave(n, channels, r, a.period, residual + t * r * a.period);
      for (long w = 0; w < words; w++) {
        const long c = w * kWordBits;
        const u32 low = mask_ge(loadf(n + c), loadf(a.threshold1 + c));
        const u32 high = mask_ge(loadf(n + c + kLanes), loadf(a.threshold1 + c + kLanes));
        bits[w * T + t] = low | high << 16;
      }
    }

    for (long c = 0; c < channels; c += kLanes) {
      f32x16 sum[T];
      for (int t = 0; t < T; t++) sum[t] = splatf(0.0f);
      for (long i = 0; i < r; i++) {
        const long h = i * channels + c;
        i32x16 acc[T];
        for (int t = 0; t < T; t++) acc[t] = splati(static_cast<int32_t>(-channels / 2));
        xor_count<T>(acc, bits, T, a.weight1 + h * words, words);
        const f32x16 scale = loadf(a.scale2_1 + h), shift = loadf(a.shift1 + h), slope = loadf(a.slope1 + h);
        const f32x16 threshold = loadf(a.threshold2 + h);
        const float* rest = residual + i * a.period + c % a.period;
        u16* halves = reinterpret_cast<u16*>(hidden_bits + h / kWordBits * T) + h / kLanes % 2;
        for (int t = 0; t < T; t++) {
          const f32x16 z = prelu((to_float(acc[t]) * scale + shift) + loadf(rest + t * r * a.period), slope);
          halves[2 * t] = static_cast<uint16_t>(mask_ge(z, threshold));
          sum[t] = sum[t] + z;
        }
      }
      for (int t = 0; t < T; t++) store(mean + t * channels + c, sum[t] * share);
    }

    const float* taps[T][kTaps];  // the tokens that each token's cross reads, in the order of ops.TAPS
    for (int t = 0; t < T; t++) {
      const long row = (first + t) / a.width, column = (first + t) % a.width;
      taps[t][0] = a.n + (first + t) * channels;
      for (long k = 0; k < 4; k++) {
        taps[t][1 + k] = a.n + (a.wrap_rows[k * a.height + row] * a.width + column) * channels;
        taps[t][5 + k] = a.n + (row * a.width + a.wrap_columns[k * a.width + column]) * channels;
      }
    }
    for (long c = 0; c < channels; c += kLanes) {
      i32x16 acc[T];
      for (int t = 0; t < T; t++) acc[t] = splati(static_cast<int32_t>(-a.hidden / 2));
      xor_count<T>(acc, hidden_bits, T, a.weight2 + c * hidden_words, hidden_words);
      const f32x16 scale = loadf(a.scale2_2 + c), shift = loadf(a.shift2 + c), slope = loadf(a.slope2 + c);
      const f32x16 out_scale = loadf(a.out_scale + c), out_shift = loadf(a.out_shift + c);
      for (int t = 0; t < T; t++) {
        const f32x16 y = prelu((to_float(acc[t]) * scale + shift) + loadf(mean + t * channels + c), slope);
        f32x16 cross = loadf(taps[t][0] + c) * loadf(a.taps + c);
        for (long k = 1; k < kTaps; k++) cross = cross + loadf(taps[t][k] + c) * loadf(a.taps + k * channels + c);
        float* x = a.x + (first + t) * channels + c;
        store(x, (loadf(x) + (y * out_scale + out_shift)) + cross);
      }
    }
  });
}

}  // namespace
}  // namespace bhvit
