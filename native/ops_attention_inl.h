// Multi-scale window attention on bits: see AttentionArgs in kernels.h.

#pragma once

#include "vectors_inl.h"

namespace bhvit {
namespace {

constexpr float kTokenEps = 1e-5f;    // ops.TOKEN_EPS
constexpr float kHighestLevel = 3.0f; // spec.ATTENTION_LEVELS
constexpr int32_t kNoKey = 1 << 30;   // distance of the lanes past the last key

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

// t = ((v - mean) * (1/sqrt(var + eps))) * token_scale + token_shift of one token.
BHVIT_INLINE void token_norm(const AttentionArgs& a, const float* n, float* t) {
  const float channels = static_cast<float>(a.channels);
  f32x16 sum = loadf(n);
  for (long c = kLanes; c < a.channels; c += kLanes) sum = sum + loadf(n + c);
  const f32x16 mean = splatf(sum_lanes(sum) / channels);
  f32x16 squares = splatf(0.0f);
  for (long c = 0; c < a.channels; c += kLanes) {
    const f32x16 centred = loadf(n + c) - mean;
    squares = squares + centred * centred;
  }
  const f32x16 inverse = splatf(1.0f / __builtin_sqrtf(sum_lanes(squares) / channels + kTokenEps));
  for (long c = 0; c < a.channels; c += kLanes) {
    store(t + c, ((loadf(n + c) - mean) * inverse) * loadf(a.token_scale + c) + loadf(a.token_shift + c));
  }
}

void attention_project(const AttentionArgs& args, long begin, long end, void* memory) {
  const AttentionArgs a = args;
  const long channels = a.channels, words = channels / kWordBits, tiles = channels / kLanes;
  const long rows = a.height * a.width + a.windows;
  Scratch scratch{static_cast<char*>(memory)};
  float* tokens = scratch.take<float>(kMaxBlock * channels);              // [token][channel]
  u32* bits = scratch.take<u32>(kProjections * kMaxBlock * words);        // [projection][word][token]

  for_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    for (int t = 0; t < T; t++) {
      float* token = tokens + t * channels;
      token_norm(a, a.n + (first + t) * channels, token);
      for (long p = 0; p < kProjections; p++) {
        const float* threshold = a.in_threshold + p * channels;
        for (long w = 0; w < words; w++) {
          const long c = w * kWordBits;
          const u32 low = mask_ge(loadf(token + c), loadf(threshold + c));
          const u32 high = mask_ge(loadf(token + c + kLanes), loadf(threshold + c + kLanes));
          bits[(p * words + w) * T + t] = low | high << 16;
        }
      }
    }
    for (long c = 0; c < channels; c += kLanes) {
      f32x16 sum[T];
      for (int t = 0; t < T; t++) sum[t] = splatf(0.0f);
      for (long p = 0; p < kProjections; p++) {
        const long at = p * channels + c;
        i32x16 acc[T];
        for (int t = 0; t < T; t++) acc[t] = splati(static_cast<int32_t>(-channels / 2));
        xor_count<T>(acc, bits + p * words * T, T, a.qkv_weight + at * words, words);
        const f32x16 scale = loadf(a.qkv_scale2 + at), shift = loadf(a.qkv_shift + at);
        const f32x16 slope = loadf(a.qkv_slope + at), threshold = loadf(a.qkv_threshold + at);
        for (int t = 0; t < T; t++) {
          const f32x16 z = prelu((to_float(acc[t]) * scale + shift) + loadf(tokens + t * channels + c), slope);
          a.signs[(p * rows + first + t) * tiles + c / kLanes] = static_cast<uint16_t>(mask_ge(z, threshold));
          sum[t] = sum[t] + z;
        }
      }
      for (int t = 0; t < T; t++) store(a.context + (first + t) * channels + c, sum[t]);
    }
  });
}

// Rows of `m` (bits l, columns j) become columns: bit j of m[l] becomes bit l of m[j].
BHVIT_INLINE void transpose32(u32 (&m)[32]) {
  u32 mask = 0x0000ffff;
  for (int j = 16; j; j >>= 1, mask ^= mask << j) {
    for (int k = 0; k < 32; k = (k + j + 1) & ~j) {
      const u32 swap = ((m[k] >> j) ^ m[k + j]) & mask;
      m[k] ^= swap << j;
      m[k + j] ^= swap;
    }
  }
}

// One head: its distances, softmax and levels; `planes` is [key word][2*query + plane].
template <int T>
BHVIT_INLINE void softmax_levels(const AttentionArgs& a, long head, int32_t* distances, long keys16, u32* planes,
                                 int32_t (&level_sums)[T]) {
  const long last = a.channels / a.heads;  // of exp_table
  const long key_words = a.key_words;
  const f32x16 scale = splatf(a.level_scale[head]), shift = splatf(a.level_shift[head]);
  const f32x16 zero = splatf(0.0f), highest = splatf(kHighestLevel), magic = splatf(kRoundMagic);
  u16* halves = reinterpret_cast<u16*>(planes);
  if (keys16 % kWordBits) {  // the last word's upper half has no vector of its own
    for (int i = 0; i < 2 * T; i++) planes[(key_words - 1) * 2 * T + i] = 0;
  }
  for (int t = 0; t < T; t++) {
    int32_t* const row = distances + t * keys16;
    i32x16 nearest = loadi(row);
    for (long j = kLanes; j < keys16; j += kLanes) nearest = min(nearest, loadi(row + j));
    int32_t lanes[16], minimum = kNoKey;
    store(lanes, nearest);
    for (int l = 0; l < 16; l++) minimum = lanes[l] < minimum ? lanes[l] : minimum;

    f32x16 total = zero;
    for (long j = 0; j < keys16; j += kLanes) {
      const i32x16 distance = loadi(row + j) - splati(minimum);
      // Lanes without a key look up the last entry, which the mask of real keys then clears.
      const i32x16 index = min(distance, splati(static_cast<int32_t>(last)));
      f32x16 e = gather(a.exp_table, index);
      if (j + kLanes > a.keys) e = as_float(as_int(e) & loadi(kFirstLanes[a.keys - j]));
      store(row + j, as_int(e));
      total = total + e;
    }
    const f32x16 inverse = splatf(1.0f / sum_lanes(total));
    int32_t level_sum = 0;
    for (long j = 0; j < keys16; j += kLanes) {
      const f32x16 value = (as_float(loadi(row + j)) * inverse) * scale + shift;
      // Clamping first gives the same level and keeps the value small enough to round with `magic`.
      i32x16 level = as_int(min(max(value, zero), highest) + magic);
      if (j + kLanes > a.keys) level = level & loadi(kFirstLanes[a.keys - j]);
      const u32 plane0 = mask_bit<0>(level), plane1 = mask_bit<1>(level);
      level_sum += __builtin_popcount(plane0) + 2 * __builtin_popcount(plane1);
      u16* half = halves + (j / kWordBits * 2 * T + 2 * t) * 2 + j / kLanes % 2;
      half[0] = static_cast<uint16_t>(plane0);
      half[2] = static_cast<uint16_t>(plane1);
    }
    level_sums[t] = level_sum;
  }
}

void attention_heads(const AttentionArgs& args, long begin, long end, void* memory) {
  const AttentionArgs a = args;
  const long depth = a.channels / a.heads, depth_words = depth / kWordBits, row_words = a.channels / kWordBits;
  const long tokens = a.height * a.width, rows = tokens + a.windows, length = a.window_h * a.window_w;
  const long across = a.width / a.window_w;
  const long keys16 = (a.keys + kLanes - 1) / kLanes * kLanes, key_words = a.key_words;
  Scratch scratch{static_cast<char*>(memory)};
  u32* key_tiles = scratch.take<u32>(keys16 * depth_words);          // [key/16][word][key%16]
  u32* value_tiles = scratch.take<u32>(depth * key_words);           // [channel/16][key word][channel%16]
  u32* query_bits = scratch.take<u32>(kMaxBlock * depth_words);      // [word][query]
  int32_t* distances = scratch.take<int32_t>(kMaxBlock * keys16);    // [query][key]
  u32* planes = scratch.take<u32>(kMaxBlock * 2 * key_words);        // [key word][2*query + plane]
  int32_t* row_of = scratch.take<int32_t>(key_words * kWordBits);    // a key's row in n, signs, context
  const u32_alias* signs = reinterpret_cast<const u32_alias*>(a.signs);

  for (long head = begin; head < end; head++) {
    const u32_alias* q = signs + head * depth_words;
    const u32_alias* k = q + rows * row_words;
    const u32_alias* v = k + rows * row_words;
    for (long g = 0; g < a.windows; g++) {
      for (long c = head * depth; c < (head + 1) * depth; c += kLanes) store(a.pooled + g * a.channels + c, splatf(0));
    }
    for (long window = 0; window < a.windows; window++) {
      const long corner = window / across * a.window_h * a.width + window % across * a.window_w;
      for (long j = 0; j < length; j++) {
        row_of[j] = static_cast<int32_t>(corner + j / a.window_w * a.width + j % a.window_w);
      }
      for (long g = 0; g < a.windows; g++) row_of[length + g] = static_cast<int32_t>(tokens + g);

      for (long j = 0; j < keys16; j++) {
        for (long w = 0; w < depth_words; w++) {
          key_tiles[(j / kLanes * depth_words + w) * kLanes + j % kLanes] =
              j < a.keys ? k[row_of[j] * row_words + w] : 0;
        }
      }
      for (long kw = 0; kw < key_words; kw++) {
        for (long w = 0; w < depth_words; w++) {
          u32 block[32];
          for (long j = 0; j < kWordBits; j++) {
            const long key = kw * kWordBits + j;
            block[j] = key < a.keys ? v[row_of[key] * row_words + w] : 0;
          }
          transpose32(block);
          for (long l = 0; l < kWordBits; l++) {
            value_tiles[((2 * w + l / kLanes) * key_words + kw) * kLanes + l % kLanes] = block[l];
          }
        }
      }

      for_blocks<kBlock>(0, a.keys, [&]<int T>(long first) {
        for (int t = 0; t < T; t++) {
          for (long w = 0; w < depth_words; w++) query_bits[w * T + t] = q[row_of[first + t] * row_words + w];
        }
        for (long j = 0; j < keys16; j += kLanes) {
          i32x16 acc[T];
          for (int t = 0; t < T; t++) acc[t] = splati(0);
          xor_count<T>(acc, query_bits, T, key_tiles + j * depth_words, depth_words);
          for (int t = 0; t < T; t++) {
            if (j + kLanes > a.keys) {  // absent keys are farther than any other
              const i32x16 present = loadi(kFirstLanes[a.keys - j]);
              acc[t] = (acc[t] & present) | (splati(kNoKey) & (present ^ splati(-1)));
            }
            store(distances + t * keys16 + j, acc[t]);
          }
        }
        int32_t level_sums[T];
        softmax_levels<T>(a, head, distances, keys16, planes, level_sums);

        for (long i = 0; i < depth; i += kLanes) {
          const long c = head * depth + i;
          const u32* values = value_tiles + i * key_words;
          i32x16 ones[T], twos[T];
          for (int t = 0; t < T; t++) ones[t] = twos[t] = splati(0);
          and_count<T, 2>(ones, planes, 2 * T, values, key_words);
          and_count<T, 2>(twos, planes + 1, 2 * T, values, key_words);
          const f32x16 scale = loadf(a.ctx_scale + c), shift = loadf(a.ctx_shift + c), slope = loadf(a.ctx_slope + c);
          for (int t = 0; t < T; t++) {
            // Of values 2b - 1: twice the levels of set bits less all levels.
            const i32x16 product = ((ones[t] + (twos[t] << 1)) << 1) - splati(level_sums[t]);
            const long row = row_of[first + t];
            float* context = a.context + row * a.channels + c;
            const f32x16 value = prelu((to_float(product) * scale + shift) + loadf(context), slope);
            if (row < tokens) {
              store(context, value);
            } else {
              float* pooled = a.pooled + (row - tokens) * a.channels + c;
              store(pooled, loadf(pooled) + value);
            }
          }
        }
      });
    }
    const f32x16 windows = splatf(static_cast<float>(a.windows));
    for (long g = 0; g < a.windows; g++) {
      for (long c = head * depth; c < (head + 1) * depth; c += kLanes) {
        float* pooled = a.pooled + g * a.channels + c;
        store(pooled, loadf(pooled) / windows);
      }
    }
  }
}

void attention_output(const AttentionArgs& args, long begin, long end, void* memory) {
  const AttentionArgs a = args;
  const long channels = a.channels, words = channels / kWordBits, across = a.width / a.window_w;
  Scratch scratch{static_cast<char*>(memory)};
  float* mixed = scratch.take<float>(kMaxBlock * channels);  // [token][channel]
  u32* bits = scratch.take<u32>(kMaxBlock * words);          // [word][token]

  for_blocks<kBlock>(begin, end, [&]<int T>(long first) {
    for (int t = 0; t < T; t++) {
      const long token = first + t;
      const long window = token / a.width / a.window_h * across + token % a.width / a.window_w;
      const float *local = a.context + token * channels, *global = a.pooled + window * channels;
      for (long c = 0; c < channels; c += kLanes) {
        const f32x16 m = (loadf(local + c) * loadf(a.mix_local + c) + loadf(global + c) * loadf(a.mix_global + c)) +
                         loadf(a.mix_shift + c);
        store(mixed + t * channels + c, m);
        u16* half = reinterpret_cast<u16*>(bits + c / kWordBits * T + t) + c / kLanes % 2;
        *half = static_cast<uint16_t>(mask_ge(m, loadf(a.proj_threshold + c)));
      }
    }
    for (long c = 0; c < channels; c += kLanes) {
      i32x16 acc[T];
      for (int t = 0; t < T; t++) acc[t] = splati(static_cast<int32_t>(-channels / 2));
      xor_count<T>(acc, bits, T, a.proj_weight + c * words, words);
      const f32x16 scale = loadf(a.proj_scale2 + c), shift = loadf(a.proj_shift + c), slope = loadf(a.proj_slope + c);
      const f32x16 out_scale = loadf(a.out_scale + c), out_shift = loadf(a.out_shift + c);
      for (int t = 0; t < T; t++) {
        const f32x16 y = prelu((to_float(acc[t]) * scale + shift) + loadf(mixed + t * channels + c), slope);
        float* x = a.x + (first + t) * channels + c;
        store(x, loadf(x) + (y * out_scale + out_shift));
      }
    }
  });
}

}  // namespace
}  // namespace bhvit
