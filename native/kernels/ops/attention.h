// Attention in windows with global tokens.

#pragma once

#include "kernels/heads.h"

namespace bhvit {

// Norm into `n`, then `pool` (items are global tokens), `project` (items
// are tokens, the global ones last), `heads` (items are windows * heads, window by window),
// `average` (items are global tokens), `output` (tokens).
// With layer norm or floats: `project_general`, and `heads` leaves I in `products`, which
// `context` (items are windows * keys) turns into c.
struct AttentionArgs {
  long height, width, channels, window_h, window_w, windows;
  Heads heads;
  Linear qkv[3], proj;
  const float *pool_max, *pool_avg, *token_scale, *token_shift;  // [channels]
  const float *qkv_slope, *qkv_threshold;                        // [3][channels]
  const float *ctx_scale, *ctx_shift, *ctx_slope;                // [channels]
  const float* ctx_weight_scale;                                 // [channels], with layer norm; null with batch norm
  const float *mix_local, *mix_global, *mix_shift, *proj_slope, *out_scale, *out_shift;
  float* n;         // [height*width + windows][channels]: the grid, then the global tokens
  float* context;   // same shape: zs, which is turned into c for the grid's tokens
  float* pooled;    // [windows][channels]: cg, the mean over windows
  uint16_t* signs;  // [3][height*width + windows][channels/16]
  float* values;    // [3][height*width + windows][channels]: q, k and v that are floats
  float* products;  // [windows][keys][channels], or null
  float* globals;   // [window][global token][channels], windows globals_stride apart: c of global tokens, which are the
  long globals_stride;  // last rows of a window's `products` if there are such
  float* x;
  NextNorm next;
};

struct AttentionKernels {
  void (*pool)(const AttentionArgs&, long begin, long end);
  void (*project)(const AttentionArgs&, long begin, long end, void* scratch);
  void (*project_general)(const AttentionArgs&, long begin, long end, void* scratch);
  void (*heads)(const AttentionArgs&, long begin, long end, void* scratch);
  void (*context)(const AttentionArgs&, long begin, long end);
  void (*average)(const AttentionArgs&, long begin, long end);
  void (*output)(const AttentionArgs&, long begin, long end, void* scratch);
};

namespace {

struct ProjectScratch {
  float* tokens;   // [token][channel]
  uint32_t* bits;  // [projection][word][token]
  uint32_t* index[kProjections];
  BHVIT_INLINE ProjectScratch(Scratch& s, const AttentionArgs& a)
      : tokens(s.take<float>(kMaxBlock * a.channels)),
        bits(s.take<uint32_t>(kProjections * kMaxBlock * a.channels / kWordBits)) {
    for (uint32_t*& part : index) part = s.take<uint32_t>(kIndexWords * kMaxBlock * a.channels / kWordBits);
  }
};

struct ProjectGeneralScratch {
  float* tokens;  // [token][channel]
  LinearScratch linear;
  BHVIT_INLINE ProjectGeneralScratch(Scratch& s, const AttentionArgs& a)
      : tokens(s.take<float>(kMaxBlock * a.channels)), linear(s, a.channels, a.channels) {}
};

struct WindowScratch {
  uint32_t *key_tiles, *value_tiles;  // of bits
  float* key_values;                  // of floats
  QueryScratch queries;
  int32_t* rows;    // [key]
  float* products;  // [query][channel of a head]
  BHVIT_INLINE WindowScratch(Scratch& s, const AttentionArgs& a)
      : key_tiles(a.heads.planes ? s.take<uint32_t>(key_tile_words(a.heads)) : nullptr),
        value_tiles(a.heads.planes ? s.take<uint32_t>(value_tile_words(a.heads)) : nullptr),
        key_values(a.heads.planes ? nullptr : s.take<float>(round_up(a.heads.keys, kLanes) * a.heads.depth)),
        queries(s, a.heads),
        rows(s.take<int32_t>(a.heads.key_words * kWordBits)),
        products(s.take<float>(kMaxBlock * a.heads.depth)) {}
};

struct OutputScratch {
  float* mixed;  // [token][channel]
  LinearScratch linear;
  BHVIT_INLINE OutputScratch(Scratch& s, const AttentionArgs& a)
      : mixed(s.take<float>(kMaxBlock * a.channels)), linear(s, a.channels, a.channels) {}
};

}  // namespace
}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

void attention_pool(const AttentionArgs& a, long begin, long end) {
  const long across = a.width / a.window_w, tokens = a.height * a.width;
  const f32x16 area = splatf(static_cast<float>(a.window_h * a.window_w));
  for (long g = begin; g < end; g++) {
    const long top = g / across * a.window_h - (a.window_h - 1) / 2;
    const long left = g % across * a.window_w - (a.window_w - 1) / 2;
    const long row0 = top > 0 ? top : 0, column0 = left > 0 ? left : 0;
    // A patch never reaches past the lower or right edge: it starts before its window's corner.
    const long row1 = top + a.window_h, column1 = left + a.window_w;
    for (long c = 0; c < a.channels; c += kLanes) {
      f32x16 sum = loadf(a.n + (row0 * a.width + column0) * a.channels + c), top_value = sum;
      for (long row = row0; row < row1; row++) {
        for (long column = column0 + (row == row0 ? 1 : 0); column < column1; column++) {
          const f32x16 v = loadf(a.n + (row * a.width + column) * a.channels + c);
          sum = sum + v;
          top_value = max(v, top_value);
        }
      }
      store(a.n + (tokens + g) * a.channels + c,
            top_value * loadf(a.pool_max + c) + (sum / area) * loadf(a.pool_avg + c));
    }
  }
}

#if defined(BHVIT_OWN_INDEX)
}  // namespace
}  // namespace bhvit
#include "kernels/attention_lookup_inl.h"
namespace bhvit {
namespace {
#else
// q, k and v of a block of tokens, whose signs are `bits` as `prepared` gives them.
template <int T>
BHVIT_INLINE void project_outputs(const AttentionArgs& a, long first, const float* tokens,
                                  const u32* const (&bits)[kProjections]) {
  const long channels = a.channels, words = channels / kWordBits, tiles = channels / kLanes;
  const long rows = a.height * a.width + a.windows;
  for (long c = 0; c < channels; c += kLanes) {
    f32x16 sum[T];
    for (int t = 0; t < T; t++) sum[t] = splatf(0.0f);
    for (long p = 0; p < kProjections; p++) {
      const long at = p * channels + c;
      const f32x16 scale = loadf(a.qkv[p].scale + c), shift = loadf(a.qkv[p].shift + c);
      const f32x16 slope = loadf(a.qkv_slope + at), threshold = loadf(a.qkv_threshold + at);
      BHVIT_EACH_PRODUCT(T, static_cast<int32_t>(-channels / 2), bits[p], T, weight_tile(a.qkv[p].bits, c, words),
                         words) {
        const f32x16 z = prelu((product * scale + shift) + loadf(tokens + t * channels + c), slope);
        a.signs[(p * rows + first + t) * tiles + c / kLanes] = static_cast<uint16_t>(mask_ge(z, threshold));
        sum[t] = sum[t] + z;
      };
    }
    for (int t = 0; t < T; t++) store(a.context + (first + t) * channels + c, sum[t]);
  }
}
#endif

void attention_project(const AttentionArgs& args, long begin, long end, void* memory) {
  const AttentionArgs a = args;
  const long channels = a.channels, words = channels / kWordBits;
  const ProjectScratch scratch = scratch_of<ProjectScratch>(memory, a);
  float* const tokens = scratch.tokens;
  u32* const bits = scratch.bits;

  for_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    layer_norms<T>(a.n + first * channels, channels, a.token_scale, a.token_shift, tokens);
    for (int t = 0; t < T; t++) {
      const float* token = tokens + t * channels;
      for (long p = 0; p < kProjections; p++) {
        const float* threshold = a.qkv[p].threshold;
        for (long w = 0; w < words; w++) {
          const long c = w * kWordBits;
          const u32 low = mask_ge(loadf(token + c), loadf(threshold + c));
          const u32 high = mask_ge(loadf(token + c + kLanes), loadf(threshold + c + kLanes));
          bits[(p * words + w) * T + t] = low | high << 16;
        }
      }
    }
    const u32* signs[kProjections];
    for (long p = 0; p < kProjections; p++) {
      signs[p] = prepared<T>(bits + p * words * T, T, words, scratch.index[p]);
    }
    project_outputs<T>(a, first, tokens, signs);
  });
}

void attention_project_general(const AttentionArgs& args, long begin, long end, void* memory) {
  const AttentionArgs a = args;
  const long channels = a.channels, rows = a.height * a.width + a.windows;
  const ProjectGeneralScratch scratch = scratch_of<ProjectGeneralScratch>(memory, a);
  const LinearScratch s = scratch.linear;
  float* const tokens = scratch.tokens;

  for_few_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    layer_norms<T>(a.n + first * channels, channels, a.token_scale, a.token_shift, tokens);
    for (long p = 0; p < kProjections; p++) {
      linear<T>(a.qkv[p], tokens, s, [&](long c, const f32x16(&y)[T]) {
        const f32x16 slope = loadf(a.qkv_slope + p * channels + c);
        const f32x16 threshold = loadf(a.qkv_threshold + p * channels + c);
        for (int t = 0; t < T; t++) {
          const f32x16 z = prelu(y[t] + loadf(tokens + t * channels + c), slope);
          const long row = p * rows + first + t;
          if (a.heads.planes) {
            a.signs[(row * channels + c) / kLanes] = static_cast<uint16_t>(mask_ge(z, threshold));
          } else {
            store(a.values + row * channels + c, z - threshold);
          }
          float* sum = a.context + (first + t) * channels + c;
          store(sum, p ? loadf(sum) + z : z);
        }
      });
    }
  });
}

// What becomes of I of queries first to first + T - 1 of a window, at channels c to c + 15.
template <int T>
BHVIT_INLINE void window_products(const AttentionArgs& a, long window, long first, const int32_t* row_of, long c,
                                  const f32x16 (&y)[T]) {
  const long tokens = a.height * a.width;
  if (a.products) {
    float* product = a.products + (window * a.heads.keys + first) * a.channels + c;
    for (int t = 0; t < T; t++) store(product + t * a.channels, y[t]);
    return;
  }
  const f32x16 scale = loadf(a.ctx_scale + c), shift = loadf(a.ctx_shift + c);
  for (int t = 0; t < T; t++) {
    const long row = row_of[first + t];
    float* context = a.context + row * a.channels + c;
    const f32x16 value = context_of(y[t] * scale + shift, context, a.ctx_slope + c);
    if (row < tokens) {
      store(context, value);
    } else {
      store(a.globals + window * a.globals_stride + (row - tokens) * a.channels + c, value);
    }
  }
}

// The same of all channels of a head, from [query][channel of the head].
template <int T>
BHVIT_INLINE void keep_products(const AttentionArgs& a, long window, long first, const int32_t* row_of, long head,
                                const float* products) {
  for (long i = 0; i < a.heads.depth; i += kLanes) {
    f32x16 y[T];
    for (int t = 0; t < T; t++) y[t] = loadf(products + t * a.heads.depth + i);
    window_products<T>(a, window, first, row_of, head * a.heads.depth + i, y);
  }
}

// Rows of n, signs and context that a window's keys have: its tokens, then the global ones.
BHVIT_INLINE long key_row(const AttentionArgs& a, long window, long j) {
  const long length = a.window_h * a.window_w, across = a.width / a.window_w;
  if (j >= length) return a.height * a.width + j - length;
  const long corner = window / across * a.window_h * a.width + window % across * a.window_w;
  return corner + j / a.window_w * a.width + j % a.window_w;
}

// P bit planes, or 0 for floats.
template <int P>
void window_heads(const AttentionArgs& a, long begin, long end, void* memory) {
  const Heads& h = a.heads;
  const long rows = a.height * a.width + a.windows, row_words = a.channels / kWordBits;
  const long depth_words = h.depth / kWordBits;
  const WindowScratch scratch = scratch_of<WindowScratch>(memory, a);
  const QueryScratch s = scratch.queries;
  u32 *const key_tiles = scratch.key_tiles, *const value_tiles = scratch.value_tiles;
  float* const key_values = scratch.key_values;
  int32_t* const row_of = scratch.rows;
  const u32_alias* signs = reinterpret_cast<const u32_alias*>(a.signs);

  for (long item = begin; item < end; item++) {
    const long window = item / h.heads, head = item % h.heads;
    for (long j = 0; j < h.keys; j++) row_of[j] = static_cast<int32_t>(key_row(a, window, j));
    if constexpr (P) {
      const u32_alias* q = signs + head * depth_words;
      const u32_alias* k = q + rows * row_words;
      tile_keys(h, k, k + rows * row_words, row_words, [&](long j) { return row_of[j]; }, key_tiles, value_tiles);
      const auto attend = [&]<int T>(long first) {
        for (int t = 0; t < T; t++) {
          for (long w = 0; w < depth_words; w++) s.bits[w * T + t] = q[row_of[first + t] * row_words + w];
        }
        if constexpr (P == 2) {
          attend_bits<T, P>(h, head, s.bits, key_tiles, value_tiles, s, [&](long i, const f32x16(&y)[T]) {
            window_products<T>(a, window, first, row_of, head * h.depth + i, y);
          });
        } else {
          attend_bit_rows<T, P>(h, head, s.bits, key_tiles, value_tiles, s, scratch.products, h.depth);
          keep_products<T>(a, window, first, row_of, head, scratch.products);
        }
      };
      if constexpr (P == 2) {  // the quantiser of the published models
        for_blocks<kBlock>(0, h.keys, attend);
      } else {
        for_few_blocks<kBlock>(0, h.keys, attend);
      }
    } else {
      const float* q = a.values + head * h.depth;
      const float *k = q + rows * a.channels, *v = k + rows * a.channels;
      tile_key_values(h, [&](long j) { return k + row_of[j] * a.channels; }, key_values);
      for_few_blocks<kBlock>(0, h.keys, [&]<int T>(long first) {
        attend_values<T>(
            h, [&](int t) { return q + row_of[first + t] * a.channels; }, key_values,
            [&](long j) { return v + row_of[j] * a.channels; }, s, scratch.products, h.depth);
        keep_products<T>(a, window, first, row_of, head, scratch.products);
      });
    }
  }
}

void attention_heads(const AttentionArgs& args, long begin, long end, void* memory) {
  const AttentionArgs a = args;
  switch (a.heads.planes) {
    case 0: return window_heads<0>(a, begin, end, memory);
    case 1: return window_heads<1>(a, begin, end, memory);
    case 2: return window_heads<2>(a, begin, end, memory);
    default: return window_heads<3>(a, begin, end, memory);
  }
}

void attention_context(const AttentionArgs& args, long begin, long end) {
  const AttentionArgs a = args;
  const long keys = a.heads.keys, tokens = a.height * a.width;
  for (long i = begin; i < end; i++) {
    const long token = key_row(a, i / keys, i % keys);
    float *row = a.products + i * a.channels, *zs = a.context + token * a.channels;
    norm_products(row, a.channels, a.ctx_weight_scale, a.ctx_scale, a.ctx_shift);
    float* out = token < tokens ? zs : row;  // zs of a global token is for all windows
    for (long c = 0; c < a.channels; c += kLanes) store(out + c, context_of(loadf(row + c), zs + c, a.ctx_slope + c));
  }
}

void attention_average(const AttentionArgs& args, long begin, long end) {
  const AttentionArgs a = args;
  for (long g = begin; g < end; g++) {
    for (long c = 0; c < a.channels; c += kLanes) {
      f32x16 sum = splatf(0.0f);
      for (long w = 0; w < a.windows; w++) sum = sum + loadf(a.globals + w * a.globals_stride + g * a.channels + c);
      store(a.pooled + g * a.channels + c, sum / splatf(static_cast<float>(a.windows)));
    }
  }
}

void attention_output(const AttentionArgs& args, long begin, long end, void* memory) {
  const AttentionArgs a = args;
  const long channels = a.channels, across = a.width / a.window_w;
  const OutputScratch scratch = scratch_of<OutputScratch>(memory, a);
  const LinearScratch s = scratch.linear;
  float* const mixed = scratch.mixed;

  const auto mix = [&](int T, long first) {
    for (int t = 0; t < T; t++) {
      const long token = first + t;
      const long window = token / a.width / a.window_h * across + token % a.width / a.window_w;
      const float *local = a.context + token * channels, *global = a.pooled + window * channels;
      for (long c = 0; c < channels; c += kLanes) {
        const f32x16 m = (loadf(local + c) * loadf(a.mix_local + c) + loadf(global + c) * loadf(a.mix_global + c)) +
                         loadf(a.mix_shift + c);
        store(mixed + t * channels + c, m);
      }
    }
  };
  const auto finish = [&]<int T>(long first, long c, const f32x16(&y)[T]) {
    const f32x16 slope = loadf(a.proj_slope + c), out_scale = loadf(a.out_scale + c),
                 out_shift = loadf(a.out_shift + c);
    const NextOutputs next(a.next, c);
    for (int t = 0; t < T; t++) {
      const f32x16 z = prelu(y[t] + loadf(mixed + t * channels + c), slope);
      const long at = (first + t) * channels + c;
      store_and_normalise(a.x, at, loadf(a.x + at) + (z * out_scale + out_shift), next);
    }
  };
  if (a.proj.bits && !a.proj.weight_scale) {
    for_blocks<kBlock>(begin, end, [&]<int T>(long first) {
      mix(T, first);
      fused_linear<T>(a.proj, mixed, s, [&](long c, const f32x16(&y)[T]) { finish(first, c, y); });
    });
  } else {
    for_few_blocks<kBlock>(begin, end, [&]<int T>(long first) {
      mix(T, first);
      linear<T>(a.proj, mixed, s, [&](long c, const f32x16(&y)[T]) { finish(first, c, y); });
    });
  }
}

constexpr AttentionKernels attention_kernels() {
  return {.pool = attention_pool,
          .project = attention_project,
          .project_general = attention_project_general,
          .heads = attention_heads,
          .context = attention_context,
          .average = attention_average,
          .output = attention_output};
}

}  // namespace
}  // namespace bhvit

#endif
