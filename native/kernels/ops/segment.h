// The classifier of pixels: a linear layer of each token, and its logits upsampled to the image.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

// `tokens` (items are rows of tokens) fills the planes of logits, then `labels` or `pixels` (items are rows of pixels)
// upsamples them. planes: [class][row][stride]; column j lies at 1 + j, and the outermost columns are repeated outside.
struct SegmentArgs {
  long height, width, channels, classes, scale;
  long stride;                           // width + 2, rounded up to 16, and 16 more, which vectors may read
  const float *norm_scale, *norm_shift;  // [channels]; null if x is normalised already
  const float* weight;                   // [ceil(classes/16)][channels][16]
  const float* bias;                     // [classes rounded up to 16]
  const float* x;
  float* planes;
  uint8_t* labels;  // [height*scale][width*scale]
  float* pixels;    // [classes][height*scale][width*scale]
};

struct SegmentKernels {
  void (*tokens)(const SegmentArgs&, long begin, long end, void* scratch);
  void (*labels)(const SegmentArgs&, long begin, long end, void* scratch);
  void (*pixels)(const SegmentArgs&, long begin, long end, void* scratch);
};

namespace {

struct SegmentScratch {
  float* features;  // [token][channels] of a block
  float* rows;      // [class][stride], logits of one row of pixels at the tokens' columns
  BHVIT_INLINE SegmentScratch(Scratch& s, const SegmentArgs& a)
      : features(s.take<float>(kMaxBlock * a.channels)), rows(s.take<float>(a.classes * a.stride)) {}
};

}  // namespace
}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

// a > b ? x : y
BHVIT_INLINE NativeI where_greater(const NativeF& a, const NativeF& b, const NativeI& x, const NativeI& y) {
  return a > b ? x : y;
}
template <class F, class I>
BHVIT_INLINE Pair<I> where_greater(const Pair<F>& a, const Pair<F>& b, const Pair<I>& x, const Pair<I>& y) {
  return {where_greater(a.lo, b.lo, x.lo, y.lo), where_greater(a.hi, b.hi, x.hi, y.hi)};
}

BHVIT_INLINE f32x16 lerp(const f32x16& a, const f32x16& b, const f32x16& weight) { return a + (b - a) * weight; }

// The token before phase t of token i, less i, and the weight of the one after it.
struct Phase {
  long before;
  float weight;
};
BHVIT_INLINE Phase phase_of(long t, long scale) {
  const long p = 2 * t + 1 - scale;
  const long rest = p < 0 ? p + 2 * scale : p;
  return {p < 0 ? -1 : 0, static_cast<float>(rest) / static_cast<float>(2 * scale)};
}

void segment_tokens(const SegmentArgs& args, long begin, long end, void* memory) {
  const SegmentArgs a = args;
  float* const features = scratch_of<SegmentScratch>(memory, a).features;
  const long plane = a.height * a.stride, tiles = divide_up(a.classes, kLanes);
  for (long row = begin; row < end; row++) {
    for_few_blocks<4>(0, a.width, [&]<int T>(long first) {
      const float* x = a.x + (row * a.width + first) * a.channels;
      if (a.norm_scale) {
        for (int t = 0; t < T; t++) {
          for (long c = 0; c < a.channels; c += kLanes) {
            const f32x16 n = loadf(x + t * a.channels + c) * loadf(a.norm_scale + c) + loadf(a.norm_shift + c);
            store(features + t * a.channels + c, n);
          }
        }
        x = features;
      }
      for (long tile = 0; tile < tiles; tile++) {
        f32x16 y[T];
        for (int t = 0; t < T; t++) y[t] = loadf(a.bias + tile * kLanes);
        const float* weight = a.weight + tile * a.channels * kLanes;
        for (long c = 0; c < a.channels; c++, weight += kLanes) {
          const f32x16 w = loadf(weight);
          for (int t = 0; t < T; t++) y[t] = y[t] + splatf(x[t * a.channels + c]) * w;
        }
        const long left = a.classes - tile * kLanes, lanes = left < kLanes ? left : kLanes;
        for (int t = 0; t < T; t++) {
          float logits[kLanes];
          store(logits, y[t]);
          float* to = a.planes + tile * kLanes * plane + row * a.stride + 1 + first + t;
          for (long l = 0; l < lanes; l++) to[l * plane] = logits[l];
        }
      }
    });
    for (long k = 0; k < a.classes; k++) {
      float* columns = a.planes + k * plane + row * a.stride;
      columns[0] = columns[1];
      columns[a.width + 1] = columns[a.width];
    }
  }
}

// The logits of a row of pixels at the tokens' columns, to `rows`.
BHVIT_INLINE void segment_row(const SegmentArgs& a, long y, float* rows) {
  const Phase phase = phase_of(y % a.scale, a.scale);
  const long before = y / a.scale + phase.before, after = before + 1;
  const long above = before < 0 ? 0 : before, below = after < a.height ? after : a.height - 1;
  const f32x16 weight = splatf(phase.weight);
  const long plane = a.height * a.stride;
  for (long k = 0; k < a.classes; k++) {
    const float* upper = a.planes + k * plane + above * a.stride;
    const float* lower = a.planes + k * plane + below * a.stride;
    for (long j = 0; j < a.width + 2; j += kLanes) {
      store(rows + k * a.stride + j, lerp(loadf(upper + j), loadf(lower + j), weight));
    }
  }
}

void segment_labels(const SegmentArgs& args, long begin, long end, void* memory) {
  const SegmentArgs a = args;
  float* const rows = scratch_of<SegmentScratch>(memory, a).rows;
  for (long y = begin; y < end; y++) {
    segment_row(a, y, rows);
    uint8_t* labels = a.labels + y * a.width * a.scale;
    for (long t = 0; t < a.scale; t++) {
      const Phase phase = phase_of(t, a.scale);
      const f32x16 weight = splatf(phase.weight);
      const float* columns = rows + 1 + phase.before;
      for (long j = 0; j < a.width; j += kLanes) {
        f32x16 best = lerp(loadf(columns + j), loadf(columns + j + 1), weight);
        i32x16 label = splati(0);
        for (long k = 1; k < a.classes; k++) {
          const float* of_class = columns + k * a.stride + j;
          const f32x16 logit = lerp(loadf(of_class), loadf(of_class + 1), weight);
          label = where_greater(logit, best, splati(static_cast<int32_t>(k)), label);
          best = max(logit, best);
        }
        int32_t found[kLanes];
        store(found, label);
        const long left = a.width - j, lanes = left < kLanes ? left : kLanes;
        uint8_t* to = labels + j * a.scale + t;
        for (long l = 0; l < lanes; l++) to[l * a.scale] = static_cast<uint8_t>(found[l]);
      }
    }
  }
}

void segment_pixels(const SegmentArgs& args, long begin, long end, void* memory) {
  const SegmentArgs a = args;
  float* const rows = scratch_of<SegmentScratch>(memory, a).rows;
  const long width = a.width * a.scale, pixels = a.height * a.scale * width;
  for (long y = begin; y < end; y++) {
    segment_row(a, y, rows);
    for (long t = 0; t < a.scale; t++) {
      const Phase phase = phase_of(t, a.scale);
      const f32x16 weight = splatf(phase.weight);
      for (long k = 0; k < a.classes; k++) {
        const float* columns = rows + k * a.stride + 1 + phase.before;
        float* to = a.pixels + k * pixels + y * width + t;
        for (long j = 0; j < a.width; j += kLanes) {
          float logits[kLanes];
          store(logits, lerp(loadf(columns + j), loadf(columns + j + 1), weight));
          const long left = a.width - j, lanes = left < kLanes ? left : kLanes;
          for (long l = 0; l < lanes; l++) to[(j + l) * a.scale] = logits[l];
        }
      }
    }
  }
}

constexpr SegmentKernels segment_kernels() {
  return {.tokens = segment_tokens, .labels = segment_labels, .pixels = segment_pixels};
}

}  // namespace
}  // namespace bhvit

#endif
