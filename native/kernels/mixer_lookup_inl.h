// The convolutions of the mixer over look-ups (lookup_inl.h), with tokens and outputs in each other's place: pairs of
// outputs choose the tables, which all rows then share, and nibbles of 16 tokens the entries. A group has too few outputs
// to pay for tables of its tokens.

#pragma once

#include "kernels/lookup_inl.h"

namespace bhvit {
namespace {

constexpr int kQuad = 4;  // outputs that are counted together

// The tables of a tile's weights, [nibble][16] bytes: [quad][nibble][pair of outputs][16].
BHVIT_INLINE void make_weight_tables(const u32* weight, long words, uint8_t* tables) {
  const uint8_t* nibbles = reinterpret_cast<const uint8_t*>(weight);
  for (long first = 0; first < kLanes; first += kQuad) {
    for (long n = 0; n < words * kNibbles; n++, tables += kQuad / 2 * 16) {
      const uint8_t* nibble = nibbles + n * kLanes + first;
      for (long p = 0; p < kQuad / 2; p++) {
        store(tables + p * 16, load<Bytes>(kCountTables.differing[nibble[2 * p] | nibble[2 * p + 1] << 4]));
      }
    }
  }
}

// 2^23 less what the counts of a row's tokens start with, for each channel of a group: [channel][token].
BHVIT_NOINLINE void make_bases(const MixerArgs& a, long row, long dilation, const int32_t* start, long channels,
                               float* bases) {
  start += 4 * border_class(row, a.height, dilation) * a.channels;
  for (long c = 0; c < channels; c++) {
    for (long t = 0; t < a.row_stride; t++) {
      *bases++ = 0x1p23f - static_cast<float>(start[border_class(t, a.width, dilation) * a.channels + c]);
    }
  }
}

// 16 rows of 16 floats become columns.
BHVIT_INLINE void transpose_tile(const float* from, float* to) {
  for (long i = 0; i < kLanes; i += 4) {
    for (long j = 0; j < kLanes; j += 4) {
      const float* at = from + i * kLanes + j;
      const NativeF a = load<NativeF>(at), b = load<NativeF>(at + kLanes), c = load<NativeF>(at + 2 * kLanes),
                    d = load<NativeF>(at + 3 * kLanes);
      const NativeF ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const NativeF cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      float* const out = to + j * kLanes + i;
      store(out, __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5));
      store(out + kLanes, __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7));
      store(out + 2 * kLanes, __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5));
      store(out + 3 * kLanes, __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7));
    }
  }
}

void mixer_conv(const MixerArgs& args, long begin, long end, void* memory) {
  const MixerArgs a = args;
  const MixerScratch scratch = scratch_of<MixerScratch>(memory, a);
  u32 *const words = scratch.words, *const index = scratch.index;
  uint8_t* const tables = reinterpret_cast<uint8_t*>(scratch.tables);
  const long channels = a.channels / a.groups;  // of a group
  const long quad_bytes = a.words * kNibbles * kQuad / 2 * 16, block_words = a.words * kLanes * kWeightWords;
  const long blocks = a.row_stride / kLanes;
  // Rows that share tables: layer norm waits for all channels of a row.
  const long band = a.sum_shift ? 1 : end - begin;

  for (long from = begin; from < end; from += band) {
    for (long group = 0; group < a.groups; group++) {
      const long first = group * channels;
      for (long d = 0; d < kDilations; d++) {
        for (long c = 0; c < channels; c += kLanes) {
          make_weight_tables(weight_tile(a.weight, d * a.channels + first + c, a.words), a.words,
                             tables + (d * channels + c) / kQuad * quad_bytes);
        }
      }
      long classes[kDilations] = {-1, -1, -1};
      for (long row = from; row < from + band; row++) {
        for (long d = 0; d < kDilations; d++) {
          const long dilation = 2 * d + 1;
          gather_taps(a, row, dilation, group, group + 1, words);
          for (long block = 0; block < blocks; block++) {  // [dilation][block of 16 tokens][nibble][16]
            for (long w = 0; w < a.words; w++) {
              expand_weights(words + w * a.row_stride + block * kLanes, 1,
                             index + ((d * blocks + block) * a.words + w) * kLanes * kWeightWords);
            }
          }
          if (classes[d] != border_class(row, a.height, dilation)) {
            classes[d] = border_class(row, a.height, dilation);
            make_bases(a, row, dilation, a.start + d * kBorderClasses * a.channels + first, channels,
                       scratch.bases + d * channels * a.row_stride);
          }
        }
        for (long c = 0; c < channels; c += kLanes) {
          for (long block = 0; block < blocks; block++) {
            alignas(16) float sums[kLanes * kLanes], columns[kLanes * kLanes];  // [channel][token], [token][channel]
            for (long i = 0; i < kLanes * kLanes; i += kLanes) store(sums + i, splatf(0.0f));
            for (long d = 0; d < kDilations; d++) {
              const u32* const entries = index + (d * blocks + block) * block_words;
              for (long quad = 0; quad < kLanes; quad += kQuad) {
                const long at = d * a.channels + first + c + quad;
                const float* const base = scratch.bases + (d * channels + c + quad) * a.row_stride + block * kLanes;
                const uint8_t* const table = tables + (d * channels + c + quad) / kQuad * quad_bytes;
                raised_counts<kQuad>(reinterpret_cast<const u32*>(table), entries, a.words,
                                     [&](int t, const f32x16& count) __attribute__((always_inline)) {
                                       const f32x16 product = count - loadf(base + t * a.row_stride);
                                       const f32x16 z =
                                           prelu(product * splatf(a.scale2[at + t]) + splatf(a.shift[at + t]),
                                                 a.slope[at + t]);
                                       float* const sum = sums + (quad + t) * kLanes;
                                       store(sum, loadf(sum) + z);
                                     });
              }
            }
            transpose_tile(sums, columns);
            const long tokens = block * kLanes, left = a.width - tokens;
            for_blocks<4>(0, left < kLanes ? left : kLanes, [&]<int T>(long t) {
              f32x16 sum[T];
              for (int i = 0; i < T; i++) sum[i] = loadf(columns + (t + i) * kLanes);
              mixer_sums<T>(a, row, tokens + t, first + c, sum, scratch.sums);
            });
          }
        }
      }
    }
    if (a.sum_shift) mixer_finish(a, from, scratch.sums);
  }
}

}  // namespace
}  // namespace bhvit
