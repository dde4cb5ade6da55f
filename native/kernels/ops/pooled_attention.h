// Attention of a whole grid to pooled keys.

#pragma once

#include "kernels/heads.h"

namespace bhvit {

// Norm into `n`, `keys` (items are keys), `tiles` (heads), `queries` (tokens).
struct PooledArgs {
  long height, width, channels, key_pool;
  Heads heads;
  Linear reduce, qkv[3], proj;
  const float *reduce_slope, *reduce_shift;        // [channels]
  const float *qkv_slope, *qkv_threshold;          // [3][channels]
  const float *ctx_scale, *ctx_shift, *ctx_slope;  // [channels]
  const float* ctx_weight_scale;                   // [channels], with layer norm; null with batch norm
  const float *mix_shift, *proj_slope, *out_scale, *out_shift;
  const float* n;                     // [height*width][channels]
  float *key_rest, *value_rest;       // [keys][channels]: z_k, z_v
  uint16_t *key_signs, *value_signs;  // [keys][channels/16]
  float *key_values, *value_values;   // [keys][channels]: k and v that are floats
  uint32_t *key_tiles, *value_tiles;  // of each head as Heads has them
  float* key_tiles_float;
  float* x;
};

struct PooledAttentionKernels {
  void (*keys)(const PooledArgs&, long begin, long end, void* scratch);
  void (*tiles)(const PooledArgs&, long begin, long end);
  void (*queries)(const PooledArgs&, long begin, long end, void* scratch);
};

namespace {

struct PooledKeysScratch {
  float *means, *reduced;  // [key][channel]
  LinearScratch linear;
  BHVIT_INLINE PooledKeysScratch(Scratch& s, const PooledArgs& a)
      : means(s.take<float>(kMaxBlock * a.channels)),
        reduced(s.take<float>(kMaxBlock * a.channels)),
        linear(s, a.channels, a.channels) {}
};

struct PooledQueriesScratch {
  float *rest, *query, *context;  // [token][channel]: zs; q that are floats; I, then m
  uint32_t* bits;                 // [word][token]
  QueryScratch heads;
  LinearScratch linear;
  BHVIT_INLINE PooledQueriesScratch(Scratch& s, const PooledArgs& a)
      : rest(s.take<float>(kMaxBlock * a.channels)),
        query(s.take<float>(kMaxBlock * a.channels)),
        context(s.take<float>(kMaxBlock * a.channels)),
        bits(s.take<uint32_t>(kMaxBlock * a.channels / kWordBits)),
        heads(s, a.heads),
        linear(s, a.channels, a.channels) {}
};

}  // namespace
}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

void pooled_keys(const PooledArgs& args, long begin, long end, void* memory) {
  const PooledArgs a = args;
  const long channels = a.channels, pool = a.key_pool, across = a.width / pool;
  const f32x16 area = splatf(static_cast<float>(pool * pool));
  const PooledKeysScratch scratch = scratch_of<PooledKeysScratch>(memory, a);
  const LinearScratch s = scratch.linear;
  float *const means = scratch.means, *const reduced = scratch.reduced;

  for_few_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    const float* u = a.n + first * channels;
    if (pool > 1) {
      for (int t = 0; t < T; t++) {
        const long row = (first + t) / across * pool, column = (first + t) % across * pool;
        for (long c = 0; c < channels; c += kLanes) {
          f32x16 sum = splatf(0.0f);
          for (long i = 0; i < pool * pool; i++) {
            sum = sum + loadf(a.n + ((row + i / pool) * a.width + column + i % pool) * channels + c);
          }
          store(means + t * channels + c, sum / area);
        }
      }
      linear<T>(a.reduce, means, s, [&](long c, const f32x16(&y)[T]) {
        const f32x16 slope = loadf(a.reduce_slope + c), shift = loadf(a.reduce_shift + c);
        for (int t = 0; t < T; t++) {
          const long at = t * channels + c;
          store(reduced + at, prelu(y[t] + loadf(means + at), slope) + shift);
        }
      });
      u = reduced;
    }
    for (long p = 1; p < kProjections; p++) {
      float* rest = p == 1 ? a.key_rest : a.value_rest;
      float* values = p == 1 ? a.key_values : a.value_values;
      uint16_t* signs = p == 1 ? a.key_signs : a.value_signs;
      linear<T>(a.qkv[p], u, s, [&](long c, const f32x16(&y)[T]) {
        const f32x16 slope = loadf(a.qkv_slope + p * channels + c);
        const f32x16 threshold = loadf(a.qkv_threshold + p * channels + c);
        for (int t = 0; t < T; t++) {
          const f32x16 z = prelu(y[t] + loadf(u + t * channels + c), slope);
          const long at = (first + t) * channels + c;
          store(rest + at, z);
          if (a.heads.planes) {
            signs[at / kLanes] = static_cast<uint16_t>(mask_ge(z, threshold));
          } else {
            store(values + at, z - threshold);
          }
        }
      });
    }
  });
}

void pooled_tiles(const PooledArgs& args, long begin, long end) {
  const PooledArgs a = args;
  const Heads& h = a.heads;
  const long keys16 = round_up(h.keys, kLanes), depth_words = h.depth / kWordBits;
  for (long head = begin; head < end; head++) {
    if (h.planes) {
      const u32_alias* k = reinterpret_cast<const u32_alias*>(a.key_signs) + head * depth_words;
      const u32_alias* v = reinterpret_cast<const u32_alias*>(a.value_signs) + head * depth_words;
      tile_keys(
          h, k, v, a.channels / kWordBits, [](long j) { return j; }, a.key_tiles + head * key_tile_words(h),
          a.value_tiles + head * value_tile_words(h));
    } else {
      const float* k = a.key_values + head * h.depth;
      tile_key_values(h, [&](long j) { return k + j * a.channels; }, a.key_tiles_float + head * keys16 * h.depth);
    }
  }
}

// I of one head of T queries to their rows of `context`.
template <int T>
BHVIT_INLINE void pooled_head(const PooledArgs& a, long head, const PooledQueriesScratch& scratch) {
  const Heads& h = a.heads;
  const long channels = a.channels, keys16 = round_up(h.keys, kLanes), depth_words = h.depth / kWordBits;
  float* const context = scratch.context + head * h.depth;
  if (!h.planes) {
    const float *query = scratch.query + head * h.depth, *value = a.value_values + head * h.depth;
    return attend_values<T>(
        h, [&](int t) { return query + t * channels; }, a.key_tiles_float + head * keys16 * h.depth,
        [&](long j) { return value + j * channels; }, scratch.heads, context, channels);
  }
  const u32* bits = scratch.bits + head * depth_words * T;
  const u32 *keys = a.key_tiles + head * key_tile_words(h), *values = a.value_tiles + head * value_tile_words(h);
  switch (h.planes) {
    case 1: return attend_bit_rows<T, 1>(h, head, bits, keys, values, scratch.heads, context, channels);
    case 2: return attend_bit_rows<T, 2>(h, head, bits, keys, values, scratch.heads, context, channels);
    default: return attend_bit_rows<T, 3>(h, head, bits, keys, values, scratch.heads, context, channels);
  }
}

void pooled_queries(const PooledArgs& args, long begin, long end, void* memory) {
  const PooledArgs a = args;
  const Heads& h = a.heads;
  const long channels = a.channels;
  const PooledQueriesScratch scratch = scratch_of<PooledQueriesScratch>(memory, a);
  const LinearScratch s = scratch.linear;
  float *const rest = scratch.rest, *const query = scratch.query, *const context = scratch.context;
  u32* const bits = scratch.bits;

  for_few_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    const float* n = a.n + first * channels;
    long key[T];  // the pooled token whose residual each token gets
    for (int t = 0; t < T; t++) {
      const long row = (first + t) / a.width, column = (first + t) % a.width;
      key[t] = (row / a.key_pool * (a.width / a.key_pool) + column / a.key_pool) * channels;
    }
    linear<T>(a.qkv[0], n, s, [&](long c, const f32x16(&y)[T]) {
      const f32x16 slope = loadf(a.qkv_slope + c), threshold = loadf(a.qkv_threshold + c);
      for (int t = 0; t < T; t++) {
        const long at = t * channels + c;
        const f32x16 z = prelu(y[t] + loadf(n + at), slope);
        if (h.planes) {
          set_bits<T>(bits, t, c, mask_ge(z, threshold));
        } else {
          store(query + at, z - threshold);
        }
        store(rest + at, (z + loadf(a.key_rest + key[t] + c)) + loadf(a.value_rest + key[t] + c));
      }
    });
    for (long head = 0; head < h.heads; head++) pooled_head<T>(a, head, scratch);
    for (int t = 0; t < T; t++) {
      float* row = context + t * channels;
      norm_products(row, channels, a.ctx_weight_scale, a.ctx_scale, a.ctx_shift);
      for (long c = 0; c < channels; c += kLanes) {
        const f32x16 value = context_of(loadf(row + c), rest + t * channels + c, a.ctx_slope + c);
        store(row + c, value + loadf(a.mix_shift + c));
      }
    }
    linear<T>(a.proj, context, s, [&](long c, const f32x16(&y)[T]) {
      const f32x16 slope = loadf(a.proj_slope + c), out_scale = loadf(a.out_scale + c),
                   out_shift = loadf(a.out_shift + c);
      for (int t = 0; t < T; t++) {
        const f32x16 z = prelu(y[t] + loadf(context + t * channels + c), slope);
        float* x = a.x + (first + t) * channels + c;
        store(x, loadf(x) + (z * out_scale + out_shift));
      }
    });
  });
}

constexpr PooledAttentionKernels pooled_attention_kernels() {
  return {.keys = pooled_keys, .tiles = pooled_tiles, .queries = pooled_queries};
}

}  // namespace
}  // namespace bhvit

#endif
