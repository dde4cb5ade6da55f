// The projections of attention over look-ups (lookup_inl.h), four outputs of two tokens at a time.

#pragma once

#include "kernels/lookup_inl.h"

namespace bhvit {
namespace {

// q, k and v of a block of tokens, whose signs are `bits` as `prepared` gives them.
template <int T>
BHVIT_INLINE void project_outputs(const AttentionArgs& a, long first, const float* tokens,
                                  const u32* const (&bits)[kProjections]) {
  const long channels = a.channels, words = channels / kWordBits, tiles = channels / kLanes;
  const long rows = a.height * a.width + a.windows;
  const NativeF base = splat<NativeF>(0x1p23f + static_cast<float>(channels / 2));
  for (long c = 0; c < channels; c += kLanes) {
    float* const sums = a.context + first * channels + c;
    for (int t = 0; t < T; t++) store(sums + t * channels, splatf(0.0f));
    for (long p = 0; p < kProjections; p++) {
      const float *const scales = a.qkv[p].scale + c, *const shifts = a.qkv[p].shift + c;
      const float *const slopes = a.qkv_slope + p * channels + c, *const thresholds =
                                                                      a.qkv_threshold + p * channels + c;
      uint16_t* const signs = a.signs + (p * rows + first) * tiles + c / kLanes;
      const bool is_gentle = gentle(loadf(slopes));
      sum_pairs<T>(bits[p], weight_tile(a.qkv[p].bits, c, words), words,
                   [&]<int pair>(const Halves(&counts)[2][2]) __attribute__((always_inline)) {
                     u32 masks[2] = {0, 0};
                     unrolled<4>(BHVIT_UNROLLED(q) {
                       const NativeF scale = load<NativeF>(scales + 4 * q), shift = load<NativeF>(shifts + 4 * q);
                       const NativeF slope = load<NativeF>(slopes + 4 * q);
                       const NativeF threshold = load<NativeF>(thresholds + 4 * q);
                       unrolled<(2 * pair + 1 < T ? 2 : 1)>(BHVIT_UNROLLED(side) {
                         const long at = (2 * pair + side) * channels + 4 * q;
                         const NativeF product = raised_floats<q>(counts[side]) - base;
                         const NativeF v = (product * scale + shift) + load<NativeF>(tokens + c + at);
                         const NativeF z = prelu_if(is_gentle, v, slope);
                         masks[side] |= mask_ge(z, threshold) << (4 * q);
                         store(sums + at, load<NativeF>(sums + at) + z);
                       });
                       BHVIT_IN_ORDER;
                     });
                     unrolled<(2 * pair + 1 < T ? 2 : 1)>(BHVIT_UNROLLED(side) {
                       signs[(2 * pair + side) * tiles] = static_cast<uint16_t>(masks[side]);
                     });
                   });
    }
  }
}

}  // namespace
}  // namespace bhvit
