// The MLP of bits over look-ups (lookup_inl.h). What follows a product goes through four outputs of two tokens at a time:
// as many values as V8 has registers for. Hidden signs become the second layer's tables at once.

#pragma once

#include "kernels/lookup_inl.h"

namespace bhvit {
namespace {

// 16 hidden outputs of a block of tokens.
struct HiddenTile {
  const float *scale, *shift, *slope, *threshold;
  const float* residual;  // [token][16]
  float* sum;             // the same
  uint8_t* tables;        // of the second layer: [nibble][pair][16]
  NativeF base;
};

// A pair of tokens whose slopes are not gentle; `counts` are [token of the pair][16]. Not inlined: few models have such.
BHVIT_NOINLINE void finish_pair(const HiddenTile& tile, const uint16_t (&counts)[2][kLanes], long pair, long pairs,
                                long sides) {
#pragma clang loop unroll(disable)
  for (long o = 0; o < kLanes; o += 4) {
    u32 signs = 0;
#pragma clang loop unroll(disable)
    for (long side = 0; side < sides; side++) {
      const long at = (2 * pair + side) * kLanes + o;
      const NativeF raised = to_float((NativeI)wasm_u32x4_load16x4(counts[side] + o)) + splat<NativeF>(0x1p23f);
      const NativeF product = raised - tile.base;
      const NativeF v =
          (product * load<NativeF>(tile.scale + o) + load<NativeF>(tile.shift + o)) + load<NativeF>(tile.residual + at);
      const NativeF z = v > 0 ? v : v * load<NativeF>(tile.slope + o);
      signs |= mask_ge(z, load<NativeF>(tile.threshold + o)) << (4 * side);
      store(tile.sum + at, load<NativeF>(tile.sum + at) + z);
    }
    store(tile.tables + (o / 4 * pairs + pair) * 16, load<Bytes>(kCountTables.differing[signs]));
  }
}

// The same of pair p of T tokens with gentle slopes, and their set bits as `sum_pairs` gives them.
template <int T, int p>
BHVIT_INLINE void finish_gentle_pair(const HiddenTile& tile, const Halves (&counts)[2][2]) {
  unrolled<4>(BHVIT_UNROLLED(q) {
    const NativeF scale = load<NativeF>(tile.scale + 4 * q), shift = load<NativeF>(tile.shift + 4 * q);
    const NativeF slope = load<NativeF>(tile.slope + 4 * q), threshold = load<NativeF>(tile.threshold + 4 * q);
    u32 signs = 0;
    unrolled<(2 * p + 1 < T ? 2 : 1)>(BHVIT_UNROLLED(side) {
      constexpr long at = (2 * p + side) * kLanes + 4 * q;
      const NativeF product = raised_floats<q>(counts[side]) - tile.base;
      const NativeF v = (product * scale + shift) + load<NativeF>(tile.residual + at);
      const NativeF z = larger(v * slope, v);
      signs |= mask_ge(z, threshold) << (4 * side);
      store(tile.sum + at, load<NativeF>(tile.sum + at) + z);
    });
    store(tile.tables + (q * ((T + 1) / 2) + p) * 16, load<Bytes>(kCountTables.differing[signs]));
    BHVIT_IN_ORDER;
  });
}

// hidden_index, and `mean` of the hidden groups.
template <int T>
BHVIT_INLINE void hidden_layer(const MlpArgs& a, const MlpScratch& s, const u32* tokens) {
  constexpr long P = (T + 1) / 2;
  const long channels = a.channels, r = a.hidden / channels, words = channels / kWordBits;
  const NativeF base = splat<NativeF>(0x1p23f + static_cast<float>(channels / 2));
  const f32x16 share = splatf(1.0f / static_cast<float>(r));
  long phase = 0;  // c mod period
  for (long c = 0; c < channels; c += kLanes) {
    float* const sums = s.mean + c * T;
    for (int t = 0; t < T; t++) store(sums + t * kLanes, splatf(0.0f));
    for (long i = 0; i < r; i++) {
      const long h = i * channels + c;
      const HiddenTile tile = {a.first.scale + h,
                               a.first.shift + h,
                               a.slope1 + h,
                               a.second.threshold + h,
                               s.residual + (i * a.period + phase) * T,
                               sums,
                               reinterpret_cast<uint8_t*>(s.hidden_index) + h / 4 * P * 16,
                               base};
      const bool is_gentle = s.gentle[h / kLanes];
      sum_pairs<T>(tokens, weight_tile(a.first.bits, h, words), words,
                   [&]<int p>(const Halves(&counts)[2][2]) __attribute__((always_inline)) {
                     if (__builtin_expect(is_gentle, 1)) return finish_gentle_pair<T, p>(tile, counts);
                     const HiddenTile copy = tile;  // or `tile` itself would live in memory
                     uint16_t kept[2][kLanes];
                     for (int i = 0; i < 4; i++) store(kept[i / 2] + i % 2 * 8, counts[i / 2][i % 2]);
                     finish_pair(copy, kept, p, P, 2 * p + 1 < T ? 2 : 1);
                   });
    }
    for (int t = 0; t < T; t++) store(sums + t * kLanes, loadf(sums + t * kLanes) * share);
    phase += kLanes;
    if (phase == a.period) phase = 0;
  }
}

// The cross of nine taps of some tokens: [token][channel]. `weights` are [channel/4][tap][4].
BHVIT_NOINLINE void cross_taps(const MlpArgs& a, const float* taps_weights, long first, long count, float* out) {
  for (long t = 0; t < count; t++) {
    const float* taps[1][kTaps];
    find_taps<1>(a, first + t, taps);
    const float* weights = taps_weights;
    for (long c = 0; c < a.channels; c += 4, weights += 4 * kTaps) {
      NativeF cross = load<NativeF>(taps[0][0] + c) * load<NativeF>(weights);
      unrolled<kTaps - 1>(BHVIT_UNROLLED(k) {
        cross = cross + load<NativeF>(taps[0][k + 1] + c) * load<NativeF>(weights + 4 * (k + 1));
      });
      store(out + t * a.channels + c, cross);
    }
  }
}

template <int T>
BHVIT_INLINE void output_layer(const MlpArgs& a, const MlpScratch& s, long first) {
  const long channels = a.channels, words = a.hidden / kWordBits, from = first * channels;
  const NativeF base = splat<NativeF>(0x1p23f + static_cast<float>(a.hidden / 2));
  for (long c = 0; c < channels; c += kLanes) {
    const bool is_gentle = s.gentle[(a.hidden + c) / kLanes];
    raised_pairs<T>(
        s.hidden_index, weight_tile(a.second.bits, c, words), words,
        [&]<int p, class Raised>(Raised raised) __attribute__((always_inline)) {
          unrolled<4>(BHVIT_UNROLLED(q) {
            const long o = c + 4 * q;
            const NativeF scale = load<NativeF>(a.second.scale + o), shift = load<NativeF>(a.second.shift + o);
            const NativeF slope = load<NativeF>(a.slope2 + o);
            const NativeF out_scale = load<NativeF>(a.out_scale + o), out_shift = load<NativeF>(a.out_shift + o);
            unrolled<(2 * p + 1 < T ? 2 : 1)>(BHVIT_UNROLLED(side) {
              constexpr long t = 2 * p + side;
              const long at = t * channels + o;
              const NativeF product = raised.template operator()<side, q>() - base;
              const NativeF mean = load<NativeF>(s.mean + c * T + t * kLanes + 4 * q);
              const NativeF z = prelu_if(is_gentle, (product * scale + shift) + mean, slope);
              const NativeF x = load<NativeF>(a.x + from + at);
              const NativeF value = (x + (z * out_scale + out_shift)) + load<NativeF>(s.cross + at);
              store(a.x + from + at, value);
              if (a.next.n) {
                store(a.next.n + from + at, value * load<NativeF>(a.next.scale + o) + load<NativeF>(a.next.shift + o));
              }
            });
            BHVIT_IN_ORDER;
          });
        });
  }
}

void mlp(const MlpArgs& args, long begin, long end, void* memory) {
  const MlpArgs a = args;
  const long channels = a.channels, r = a.hidden / channels, words = channels / kWordBits;
  const MlpScratch s = scratch_of<MlpScratch>(memory, a);
  for (long h = 0; h < a.hidden; h += kLanes) s.gentle[h / kLanes] = gentle(loadf(a.slope1 + h));
  for (long c = 0; c < channels; c += kLanes) s.gentle[(a.hidden + c) / kLanes] = gentle(loadf(a.slope2 + c));
  for (long c = 0; c < channels; c += 4) {  // [channel/4][tap][4]
    for (long k = 0; k < kTaps; k++) store(s.taps + c * kTaps + 4 * k, load<NativeF>(a.taps + k * channels + c));
  }

  for_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    for (int t = 0; t < T; t++) {
      const float* n = a.n + (first + t) * channels;
      deinterleave(n, channels, r, a.period, T, s.residual + t * kLanes);
      for (long k = 0; k < channels; k += kLanes) {
        set_bits<T>(s.bits, t, k, mask_ge(loadf(n + k), loadf(a.first.threshold + k)));
      }
    }
    hidden_layer<T>(a, s, prepared<T>(s.bits, T, words, s.index));
    cross_taps(args, s.taps, first, T, s.cross);
    output_layer<T>(a, s, first);
  });
}

}  // namespace
}  // namespace bhvit
