// The MLP with residuals, channel-group means and the cross of nine taps.
//
// A block of tokens goes through both layers at once: hidden values live in registers only, and leave as
// bits and as the running mean over the r hidden groups.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// Items are tokens; n is whole before it starts, x is changed in place. `fused` takes bits and batch norm, `general` any
// layers.
struct MlpArgs {
  long height, width, channels, hidden;
  long period;  // after which the residual of a hidden group i repeats: lcm(channels/r, 16)
  Linear first, second;
  const float *slope1, *slope2, *out_scale, *out_shift;
  const float* taps;                        // [9][channels]
  const int32_t *wrap_rows, *wrap_columns;  // [4][edge]: index of i-1, i+1, i-2, i+2, or -1 for zeros
  const float* zeros;                       // [channels]
  const float* n;
  float* x;
  NextNorm next;
};

struct MlpKernels {
  void (*fused)(const MlpArgs&, long begin, long end, void* scratch);
  void (*general)(const MlpArgs&, long begin, long end, void* scratch);
};

namespace {

struct MlpScratch {
  float* residual;               // [i][period/16][token][16]
  float* mean;                   // [channel/16][token][16]
  uint32_t *bits, *hidden_bits;  // [word][token]
  uint32_t* index;               // what `prepared` makes of one of them
  // For kernels that look counts up, see mlp_lookup_inl.h.
  uint32_t* hidden_index;
  float *cross, *taps;
  uint8_t* gentle;
  BHVIT_INLINE MlpScratch(Scratch& s, const MlpArgs& a)
      : residual(s.take<float>(kMaxBlock * a.hidden / a.channels * a.period)),
        mean(s.take<float>(kMaxBlock * a.channels)),
        bits(s.take<uint32_t>(kMaxBlock * a.channels / kWordBits)),
        hidden_bits(s.take<uint32_t>(kMaxBlock * a.hidden / kWordBits)),
        index(s.take<uint32_t>(kIndexWords * kMaxBlock * a.channels / kWordBits)),
        hidden_index(s.take<uint32_t>(kIndexWords * kMaxBlock * a.hidden / kWordBits)),
        cross(s.take<float>(kIndexWords ? kMaxBlock * a.channels : 0)),
        taps(s.take<float>(kIndexWords ? kTaps * a.channels : 0)),
        gentle(s.take<uint8_t>(kIndexWords ? (a.hidden + a.channels) / kLanes : 0)) {}
};

struct MlpGeneralScratch {
  float *residual, *mean;  // as those of MlpScratch
  float* hidden;           // [token][hidden], or their bits [word][token]
  LinearScratch linear;
  BHVIT_INLINE MlpGeneralScratch(Scratch& s, const MlpArgs& a)
      : residual(s.take<float>(kMaxBlock * a.hidden / a.channels * a.period)),
        mean(s.take<float>(kMaxBlock * a.channels)),
        hidden(s.take<float>(kMaxBlock * a.hidden)),
        linear(s, a.hidden, a.hidden) {}
};

}  // namespace
}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

// Splits R vectors, whose lanes are channels in order, by channel mod R; group i goes to out + i*step.
// Of each half the even channels come first, so the recursion meets the bits of i from the lowest up.
template <int R, int i, int stride>
BHVIT_INLINE void split(const f32x16 (&v)[R], float* out, long step) {
  if constexpr (R == 1) {
    store(out + i * step, v[0]);
  } else {
    f32x16 even[R / 2], odd[R / 2];
    for (int k = 0; k < R / 2; k++) {
      even[k] = evens(v[2 * k], v[2 * k + 1]);
      odd[k] = odds(v[2 * k], v[2 * k + 1]);
    }
    split<R / 2, i, 2 * stride>(even, out, step);
    split<R / 2, i + stride, 2 * stride>(odd, out, step);
  }
}

template <int R>
BHVIT_INLINE void split_all(const float* n, long channels, long period, long block, float* out) {
  long from = 0;
  for (long p = 0; p < period; p += kLanes) {
    f32x16 v[R];
    for (int k = 0; k < R; k++) {
      v[k] = loadf(n + from);
      from += kLanes;
      if (from == channels) from = 0;
    }
    split<R, 0, 1>(v, out + p * block, period * block);
  }
}

// The residual of hidden group i at channel p is n[(r*p + i) mod channels], of period `period` in p.
// Written for one token of a block to out[(i*period + p)/16][token][16].
BHVIT_SHARED void deinterleave(const float* n, long channels, long r, long period, long block, float* out) {
  switch (r) {
    case 1: return split_all<1>(n, channels, period, block, out);
    case 2: return split_all<2>(n, channels, period, block, out);
    case 4: return split_all<4>(n, channels, period, block, out);
    case 8: return split_all<8>(n, channels, period, block, out);
  }
  for (long i = 0; i < r; i++) {
    long from = i;
    for (long p = 0; p < period; p++) {
      out[(i * period + p) / kLanes * kLanes * block + p % kLanes] = n[from];
      from += r;
      if (from >= channels) from -= channels;
    }
  }
}

// What follows the second layer: y (its normed products at channels c to c + 15) and the mean are added to x.
template <int T>
BHVIT_INLINE void mlp_tail(const MlpArgs& a, long first, long c, const f32x16 (&y)[T], const float* mean,
                           const float* const (&taps)[T][kTaps]) {
  const f32x16 slope = loadf(a.slope2 + c), out_scale = loadf(a.out_scale + c), out_shift = loadf(a.out_shift + c);
  f32x16 weight[kTaps];
  for (long k = 0; k < kTaps; k++) weight[k] = loadf(a.taps + k * a.channels + c);
  const NextOutputs next(a.next, c);
  long at = first * a.channels + c;
  for (int t = 0; t < T; t++, at += a.channels) {
    const f32x16 z = prelu(y[t] + loadf(mean + c * T + t * kLanes), slope);
    f32x16 cross = loadf(taps[t][0] + c) * weight[0];
    for (long k = 1; k < kTaps; k++) cross = cross + loadf(taps[t][k] + c) * weight[k];
    store_and_normalise(a.x, at, (loadf(a.x + at) + (z * out_scale + out_shift)) + cross, next);
  }
}

// The tokens that the cross of each of T tokens reads, in the order of program.TAPS.
template <int T>
BHVIT_INLINE void find_taps(const MlpArgs& a, long first, const float* (&taps)[T][kTaps]) {
  for (int t = 0; t < T; t++) {
    const long row = (first + t) / a.width, column = (first + t) % a.width;
    taps[t][0] = a.n + (first + t) * a.channels;
    for (long k = 0; k < 4; k++) {
      const long tap_row = a.wrap_rows[k * a.height + row], tap_column = a.wrap_columns[k * a.width + column];
      taps[t][1 + k] = tap_row < 0 ? a.zeros : a.n + (tap_row * a.width + column) * a.channels;
      taps[t][5 + k] = tap_column < 0 ? a.zeros : a.n + (row * a.width + tap_column) * a.channels;
    }
  }
}

#if defined(BHVIT_OWN_INDEX)
}  // namespace
}  // namespace bhvit
#include "kernels/mlp_lookup_inl.h"
namespace bhvit {
namespace {
#else
void mlp(const MlpArgs& args, long begin, long end, void* memory) {
  const MlpArgs a = args;
  const long channels = a.channels, r = a.hidden / channels;
  const long words = channels / kWordBits, hidden_words = a.hidden / kWordBits;
  const MlpScratch scratch = scratch_of<MlpScratch>(memory, a);
  float *const residual = scratch.residual, *const mean = scratch.mean;
  u32 *const bits = scratch.bits, *const hidden_bits = scratch.hidden_bits;
  const f32x16 share = splatf(1.0f / static_cast<float>(r));

  for_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    for (int t = 0; t < T; t++) {
      const float* n = a.n + (first + t) * channels;
      deinterleave(n, channels, r, a.period, T, residual + t * kLanes);
      for (long w = 0; w < words; w++) {
        const long c = w * kWordBits;
        const u32 low = mask_ge(loadf(n + c), loadf(a.first.threshold + c));
        const u32 high = mask_ge(loadf(n + c + kLanes), loadf(a.first.threshold + c + kLanes));
        bits[w * T + t] = low | high << 16;
      }
    }

    const u32* const tokens = prepared<T>(bits, T, words, scratch.index);
    long phase = 0;  // c mod period
    for (long c = 0; c < channels; c += kLanes) {
      f32x16 sum[T];
      for (int t = 0; t < T; t++) sum[t] = splatf(0.0f);
      for (long i = 0; i < r; i++) {
        const long h = i * channels + c;
        const f32x16 scale = loadf(a.first.scale + h), shift = loadf(a.first.shift + h), slope = loadf(a.slope1 + h);
        const f32x16 threshold = loadf(a.second.threshold + h);
        const float* rest = residual + (i * a.period + phase) * T;
        u16* halves = reinterpret_cast<u16*>(hidden_bits + static_cast<u32>(h) / kWordBits * T) +
                      static_cast<u32>(h) / kLanes % 2;
        BHVIT_EACH_PRODUCT(T, static_cast<int32_t>(-channels / 2), tokens, T, weight_tile(a.first.bits, h, words),
                           words) {
          const f32x16 z = prelu((product * scale + shift) + loadf(rest + t * kLanes), slope);
          halves[2 * t] = static_cast<uint16_t>(mask_ge(z, threshold));
          sum[t] = sum[t] + z;
        };
      }
      for (int t = 0; t < T; t++) store(mean + c * T + t * kLanes, sum[t] * share);
      phase += kLanes;
      if (phase == a.period) phase = 0;
    }

    const float* taps[T][kTaps];
    find_taps<T>(a, first, taps);
    const u32* const hidden = prepared<T>(hidden_bits, T, hidden_words, scratch.hidden_index);
    for (long c = 0; c < channels; c += kLanes) {
      const f32x16 scale = loadf(a.second.scale + c), shift = loadf(a.second.shift + c);
      f32x16 y[T];
      BHVIT_EACH_PRODUCT(T, static_cast<int32_t>(-a.hidden / 2), hidden, T, weight_tile(a.second.bits, c, hidden_words),
                         hidden_words) {
        y[t] = product * scale + shift;
      };
      mlp_tail<T>(a, first, c, y, mean, taps);
    }
  });
}

#endif

void mlp_general(const MlpArgs& args, long begin, long end, void* memory) {
  const MlpArgs a = args;
  const long channels = a.channels, r = a.hidden / channels;
  const MlpGeneralScratch scratch = scratch_of<MlpGeneralScratch>(memory, a);
  const LinearScratch s = scratch.linear;
  float *const residual = scratch.residual, *const mean = scratch.mean, *const hidden = scratch.hidden;
  u32* const hidden_bits = a.second.bits ? reinterpret_cast<u32*>(hidden) : nullptr;
  const f32x16 share = splatf(1.0f / static_cast<float>(r));

  for_few_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    const float* n = a.n + first * channels;
    for (int t = 0; t < T; t++) deinterleave(n + t * channels, channels, r, a.period, T, residual + t * kLanes);
    linear<T>(a.first, n, s, [&](long h, const f32x16(&y)[T]) {
      const f32x16 slope = loadf(a.slope1 + h), threshold = loadf(a.second.threshold + h);
      const float* rest = residual + (h / channels * a.period + h % channels % a.period) * T;
      float* sums = mean + h % channels * T;
      const bool starts = h < channels, ends = h >= a.hidden - channels;
      for (int t = 0; t < T; t++) {
        const f32x16 z = prelu(y[t] + loadf(rest + t * kLanes), slope);
        const f32x16 sum = (starts ? splatf(0.0f) : loadf(sums + t * kLanes)) + z;
        store(sums + t * kLanes, ends ? sum * share : sum);
        if (hidden_bits) {
          set_bits<T>(hidden_bits, t, h, mask_ge(z, threshold));
        } else {
          store(hidden + t * a.hidden + h, z);
        }
      }
    });
    const float* taps[T][kTaps];
    find_taps<T>(a, first, taps);
    if (hidden_bits) {
      linear_of_bits<T>(a.second, hidden_bits, s);
    } else {
      linear_of_rows<T>(a.second, hidden, s);
    }
    for_outputs<T>(a.second, s, [&](long c, const f32x16(&y)[T]) { mlp_tail<T>(a, first, c, y, mean, taps); });
  });
}

constexpr MlpKernels mlp_kernels() { return {.fused = mlp, .general = mlp_general}; }

}  // namespace
}  // namespace bhvit

#endif
