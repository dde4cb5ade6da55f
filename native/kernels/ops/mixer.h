// The token mixer of three grouped dilated convolutions.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// `bits` (items are rows) fills the planes, then `conv` (items are rows) adds to x. Where activations or weights are
// floats, `values` fills `values` from n, and `conv_float` adds.
//
// planes: [channels/16][plane] of 16-bit halves: bit i of half h at (row, column) is channel 16h + i of
// the token; kBorder zeros lie around the grid and plane_stride is the length of a bordered row.
// Zero bits of taps outside the grid would count as -1; `start` takes that back: it holds -K/2 less half
// of the sum over absent taps of (2*popcount(tap's weight bits) - inputs), for each of 16 border
// classes 4*(row class) + column class, a class being 1 if the tap before is absent + 2 if the one after.
// values: [bordered token][channels], zeros around the grid, so that absent taps add zero.
struct MixerArgs {
  long height, width, channels, groups;
  long words;                            // of one output's weights: words_for(9 * channels / groups)
  long plane_stride;                     // in halves, or in tokens of `values`
  long plane_size;                       // the same
  const float *norm_scale, *norm_shift;  // [channels]: bits are those of x*norm_scale + norm_shift
  const float *out_scale, *out_shift;    // [channels]
  const float* sum_shift;                // [channels], with layer norm; null with batch norm
  const uint32_t* weight;                // [3][channels/16][words][16]
  const float* weight_float;             // [3][channels/16][inputs][16]
  bool signs;
  const float *scale2, *shift, *slope;  // [3][channels]; scale2 is the scale itself for floats
  const int32_t* start;                 // [3][16 classes][channels]
  uint16_t* planes;
  float* values;
  const float* source;  // x, or n where `values` are made or layer norm came first
  float* x;
  NextNorm next;    // with batch norm
  long row_stride;  // tokens of a row rounded up to 16
};

struct MixerKernels {
  void (*bits)(const MixerArgs&, long begin, long end);
  void (*conv)(const MixerArgs&, long begin, long end, void* scratch);
  void (*values)(const MixerArgs&, long begin, long end);
  void (*conv_float)(const MixerArgs&, long begin, long end, void* scratch);
};

namespace {

struct MixerScratch {
  uint32_t* words;  // [dilation][group][word][token]
  float* sums;      // [token][channel], before layer norm
  // For kernels that look counts up, see mixer_lookup_inl.h.
  uint32_t *index, *tables;
  float* bases;
  BHVIT_INLINE MixerScratch(Scratch& s, const MixerArgs& a)
      : words(a.weight ? s.take<uint32_t>(kDilations * a.groups * a.words * a.row_stride) : nullptr),
        sums(a.sum_shift ? s.take<float>(a.width * a.channels) : nullptr),
        index(nullptr),
        tables(nullptr),
        bases(nullptr) {
    if (kIndexWords && a.weight) {
      const long channels = a.channels / a.groups;
      index = s.take<uint32_t>(kDilations * a.words * a.row_stride * kWeightWords);
      tables = s.take<uint32_t>(kDilations * a.words * channels * kIndexWords);
      bases = s.take<float>(kDilations * channels * a.row_stride);
    }
  }
};

}  // namespace
}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

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
      const float* x = a.source + row * a.width * a.channels + c;
      for (long column = 0; column < a.width; column++) {
        bits[column] = static_cast<uint16_t>(mask_ge(loadf(x + column * a.channels) * scale + shift, zero));
      }
    }
  }
}

// The words of all taps of one row of tokens, for one dilation and groups begin to end - 1: [group][word][token]. A
// weight's inputs are (tap, channel of the group), so the halves of a word list go through the halves of one tap after the
// other's. Whole vectors are written: the words past the row's last token mean nothing.
BHVIT_INLINE void gather_taps(const MixerArgs& a, long row, long dilation, long begin, long end, u32* words) {
  const long halves = a.channels / a.groups / kLanes;  // of one tap
  long offsets[9];
  for (long tap = 0; tap < 9; tap++) {
    offsets[tap] = (row + kBorder + (tap / 3 - 1) * dilation) * a.plane_stride + kBorder + (tap % 3 - 1) * dilation;
  }
  const uint16_t* plane = a.planes + begin * halves * a.plane_size;
  for (long group = begin; group < end; group++, plane += halves * a.plane_size) {
    long tap = 0, half = 0;
    const auto next = [&] {
      const uint16_t* from = plane + half * a.plane_size + offsets[tap];
      if (++half == halves) half = 0, tap++;
      return from;
    };
    for (long w = 0; w < a.words; w++, words += a.row_stride) {
      const uint16_t* low = next();
      if (tap < 9) {
        const uint16_t* high = next();
        for (long t = 0; t < a.width; t += kLanes) store(words + t, load_u16(low + t) | load_u16(high + t) << 16);
      } else {
        for (long t = 0; t < a.width; t += kLanes) store(words + t, load_u16(low + t));
      }
    }
  }
}

// 1 if the tap before position i is outside 0..edge-1, plus 2 if the tap after it is.
BHVIT_INLINE long border_class(long i, long edge, long dilation) {
  return (i < dilation ? 1 : 0) + (i + dilation >= edge ? 2 : 0);
}

// Sums of the three branches: added to x, or, before layer norm, kept in `row`, [token][channel].
template <int T>
BHVIT_INLINE void mixer_sums(const MixerArgs& a, long row, long first, long c, const f32x16 (&sum)[T], float* rows) {
  if (a.sum_shift) {
    for (int t = 0; t < T; t++) store(rows + (first + t) * a.channels + c, sum[t] + loadf(a.sum_shift + c));
    return;
  }
  const f32x16 out_scale = loadf(a.out_scale + c), out_shift = loadf(a.out_shift + c);
  const NextOutputs next(a.next, c);
  long at = (row * a.width + first) * a.channels + c;
  for (int t = 0; t < T; t++, at += a.channels) {
    store_and_normalise(a.x, at, loadf(a.x + at) + (sum[t] * out_scale + out_shift), next);
  }
}

BHVIT_INLINE void mixer_finish(const MixerArgs& a, long row, float* rows) {
  if (!a.sum_shift) return;
  layer_norm_rows(rows, a.width, a.channels, a.out_scale, a.out_shift, rows);
  float* x = a.x + row * a.width * a.channels;
  for (long at = 0; at < a.width * a.channels; at += kLanes) store(x + at, loadf(x + at) + loadf(rows + at));
}

#if defined(BHVIT_OWN_INDEX)
}  // namespace
}  // namespace bhvit
#include "kernels/mixer_lookup_inl.h"
namespace bhvit {
namespace {
#else
void mixer_conv(const MixerArgs& args, long begin, long end, void* memory) {
  const MixerArgs a = args;
  const MixerScratch scratch = scratch_of<MixerScratch>(memory, a);
  u32* const words = scratch.words;
  float* const sums = scratch.sums;
  const long dilation_words = a.groups * a.words * a.row_stride;
  const long tiles = a.channels / kLanes, tiles_of_group = tiles / a.groups;

  for (long row = begin; row < end; row++) {
    for (long d = 0; d < kDilations; d++) gather_taps(a, row, 2 * d + 1, 0, a.groups, words + d * dilation_words);
    for (long tile = 0; tile < tiles; tile++) {
      const long c = tile * kLanes;
      const long list = tile / tiles_of_group;
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
          xor_count<T>(acc, words + (d * a.groups + list) * a.words * a.row_stride + first, a.row_stride,
                       weight_tile(a.weight, (d * tiles + tile) * kLanes, a.words), a.words);
          const long p = d * a.channels + c;
          const f32x16 scale = loadf(a.scale2 + p), shift = loadf(a.shift + p), slope = loadf(a.slope + p);
          for (int t = 0; t < T; t++) {
            const f32x16 z = prelu(to_float(acc[t]) * scale + shift, slope);
            sum[t] = sum[t] + z;
          }
        }
        mixer_sums<T>(a, row, first, c, sum, sums);
      });
    }
    mixer_finish(a, row, sums);
  }
}

#endif

void mixer_values(const MixerArgs& args, long begin, long end) {
  const MixerArgs a = args;
  for (long row = begin; row < end; row++) {
    const float* n = a.source + row * a.width * a.channels;
    float* values = a.values + ((row + kBorder) * a.plane_stride + kBorder) * a.channels;
    for (long i = 0; i < a.width * a.channels; i += kLanes) {
      const f32x16 v = loadf(n + i);
      store(values + i, a.signs ? sign_ge(v, splatf(0.0f)) : v);
    }
  }
}

void mixer_conv_float(const MixerArgs& args, long begin, long end, void* memory) {
  const MixerArgs a = args;
  const long inputs = a.channels / a.groups;  // of one tap
  float* const sums = scratch_of<MixerScratch>(memory, a).sums;
  for (long row = begin; row < end; row++) {
    for (long c = 0; c < a.channels; c += kLanes) {
      const long group = c / inputs * inputs;  // its first channel
      for_few_blocks<kBlock>(0, a.width, [&]<int T>(long first) {
        f32x16 sum[T];
        for (int t = 0; t < T; t++) sum[t] = splatf(0.0f);
        for (long d = 0; d < kDilations; d++) {
          const long dilation = 2 * d + 1, p = d * a.channels + c;
          const float* weight = a.weight_float + p * 9 * inputs;
          f32x16 y[T];
          for (int t = 0; t < T; t++) y[t] = splatf(0.0f);
          for (long tap = 0; tap < 9; tap++) {
            const long tap_row = row + kBorder + (tap / 3 - 1) * dilation;
            const long tap_column = first + kBorder + (tap % 3 - 1) * dilation;
            const float* value = a.values + (tap_row * a.plane_stride + tap_column) * a.channels + group;
            for (long k = 0; k < inputs; k++, weight += kLanes) {
              const f32x16 w = loadf(weight);
              for (int t = 0; t < T; t++) y[t] = y[t] + splatf(value[t * a.channels + k]) * w;
            }
          }
          const f32x16 scale = loadf(a.scale2 + p), shift = loadf(a.shift + p), slope = loadf(a.slope + p);
          for (int t = 0; t < T; t++) sum[t] = sum[t] + prelu(y[t] * scale + shift, slope);
        }
        mixer_sums<T>(a, row, first, c, sum, sums);
      });
    }
    mixer_finish(a, row, sums);
  }
}

constexpr MixerKernels mixer_kernels() {
  return {.bits = mixer_bits, .conv = mixer_conv, .values = mixer_values, .conv_float = mixer_conv_float};
}

}  // namespace
}  // namespace bhvit

#endif
