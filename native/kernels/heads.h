// The heads of an attention, on bits or on floats: `attend` in format/ops/attend.py.

#pragma once

#include "kernels/scratch.h"

namespace bhvit {

struct Heads {
  long heads, depth;       // depth: channels of a head
  long keys, key_words;    // key_words = words_for(keys)
  int planes;              // bit planes of a level: 1 one_bit, 2 decomposition, 3 gsb; 0: activations are floats
  const float* exp_table;  // [depth + 1]
  const float *level_scale, *level_shift;  // [heads]
  const float* plane_scale;                // [2], gsb
};

namespace {

// Words of one head's keys and values as tiles.
BHVIT_INLINE long key_tile_words(const Heads& h) {
  return kWeightWords * round_up(h.keys, kLanes) * h.depth / kWordBits;
}
BHVIT_INLINE long value_tile_words(const Heads& h) { return kWeightWords * h.depth * h.key_words; }

// Of kMaxBlock queries.
struct QueryScratch {
  uint32_t* bits;      // [word][query], of one head
  uint32_t* index;     // what `prepared` makes of bits, or of a plane
  int32_t* distances;  // [query][key], or scores and probabilities
  uint32_t* planes;    // [key word][P*query + plane]
  BHVIT_INLINE QueryScratch(Scratch& s, const Heads& h)
      : bits(s.take<uint32_t>(kMaxBlock * h.depth / kWordBits)),
        index(s.take<uint32_t>(kIndexWords * kMaxBlock *
                               (h.depth / kWordBits > 3 * h.key_words ? h.depth / kWordBits : 3 * h.key_words))),
        distances(s.take<int32_t>(kMaxBlock * round_up(h.keys, kLanes))),
        planes(s.take<uint32_t>(kMaxBlock * 3 * h.key_words)) {}
};

}  // namespace
}  // namespace bhvit

#if defined(BHVIT_NATIVE_LANES)  // compiled for an instruction set

#include "kernels/linear_inl.h"

namespace bhvit {
namespace {

// A table for look-ups of 16 entries at once; an instruction set may have its own.
#if !defined(BHVIT_OWN_TABLE)
struct Table {
  const float* values;
};
BHVIT_INLINE Table make_table(const float* values, long) { return {values}; }
BHVIT_INLINE f32x16 look_up(const Table& table, const i32x16& index) { return gather(table.values, index); }
#endif

constexpr int32_t kNoKey = 1 << 30;                 // distance of the lanes past the last key
constexpr float kGsbUpper = 0.7f, kGsbHigh = 0.9f;  // program.GSB_UPPER, program.GSB_HIGH

// Rows of `m` (bits l, columns j) become columns: bit j of m[l] becomes bit l of m[j].
BHVIT_SHARED void transpose32(u32 (&m)[32]) {
  u32 mask = 0x0000ffff;
  for (int j = 16; j; j >>= 1, mask ^= mask << j) {
    for (int k = 0; k < 32; k = (k + j + 1) & ~j) {
      const u32 swap = ((m[k] >> j) ^ m[k + j]) & mask;
      m[k] ^= swap << j;
      m[k + j] ^= swap;
    }
  }
}

// Signs of one head's keys and values as tiles: [key/16][word][key%16] and [channel/16][key word][channel%16].
// Row row(j) of `k` and `v`, of row_words words, belongs to key j.
template <class Row>
BHVIT_INLINE void tile_keys(const Heads& h, const u32_alias* k, const u32_alias* v, long row_words, Row row,
                            u32* key_tiles, u32* value_tiles) {
  const long depth_words = h.depth / kWordBits, keys16 = round_up(h.keys, kLanes);
  for (long j = 0; j < keys16; j += kLanes) {
    for (long w = 0; w < depth_words; w++, key_tiles += kLanes * kWeightWords) {
      u32 tile[kLanes];
      for (long l = 0; l < kLanes; l++) tile[l] = j + l < h.keys ? k[row(j + l) * row_words + w] : 0;
      expand_weights(tile, 1, key_tiles);
    }
  }
  for (long kw = 0; kw < h.key_words; kw++) {
    for (long w = 0; w < depth_words; w++) {
      u32 block[32];
      for (long j = 0; j < kWordBits; j++) {
        const long key = kw * kWordBits + j;
        block[j] = key < h.keys ? v[row(key) * row_words + w] : 0;
      }
      transpose32(block);
      for (long half = 0; half < 2; half++) {
        u32* const tile = value_tiles + ((2 * w + half) * h.key_words + kw) * kLanes * kWeightWords;
        expand_weights(block + half * kLanes, 1, tile);
      }
    }
  }
}

// One head: its distances, of which `minimum` are the least, softmax and levels; `planes` is
// [key word][P*query + plane], and sums[t][p] their set bits. Queries go side by side, because each waits for its sum.
template <int T, int P>
BHVIT_INLINE void softmax_levels(const Heads& h, long head, int32_t* distances, const i32x16 (&minimum)[T], u32* planes,
                                 int32_t (&sums)[T][P]) {
  const long last = h.depth;  // of exp_table
  const long keys16 = round_up(h.keys, kLanes);
  const f32x16 scale = splatf(h.level_scale[head]), shift = splatf(h.level_shift[head]);
  const Table exp_table = make_table(h.exp_table, last + 1);
  const f32x16 zero = splatf(0.0f), highest = splatf(P == 2 ? 3.0f : 1.0f), magic = splatf(kRoundMagic);
  u16* halves = reinterpret_cast<u16*>(planes);
  if (keys16 % kWordBits) {  // the last word's upper half has no vector of its own
    for (int i = 0; i < P * T; i++) planes[(h.key_words - 1) * P * T + i] = 0;
  }
  f32x16 total[T], inverse[T];
  for (int t = 0; t < T; t++) total[t] = zero;
  for (long j = 0; j < keys16; j += kLanes) {
    const i32x16 present = loadi(kFirstLanes[h.keys - j < kLanes ? h.keys - j : kLanes]);
    for (int t = 0; t < T; t++) {
      int32_t* const at = distances + t * keys16 + j;
      // Lanes without a key look up the last entry, which the mask of real keys then clears.
      const i32x16 index = min(loadi(at) - minimum[t], splati(static_cast<int32_t>(last)));
      const i32x16 e = as_int(look_up(exp_table, index)) & present;
      store(at, e);
      total[t] = total[t] + as_float(e);
    }
  }
  for (int t = 0; t < T; t++) inverse[t] = splatf(1.0f / sum_lanes(total[t]));
  for (long j = 0; j < keys16; j += kLanes) {
    const i32x16 present = loadi(kFirstLanes[h.keys - j < kLanes ? h.keys - j : kLanes]);
    for (int t = 0; t < T; t++) {
      const f32x16 e = loadf(reinterpret_cast<const float*>(distances) + t * keys16 + j);
      const f32x16 value = (e * inverse[t]) * scale + shift;
      // Clamping first gives the same level and keeps the value small enough to round with `magic`.
      const i32x16 level = as_int(min(max(value, zero), highest) + magic) & present;
      u32 masks[3] = {mask_bit<0>(level), 0, 0};
      if (P == 2) masks[1] = mask_bit<1>(level);
      if (P == 3) masks[1] = mask_ge(e, splatf(kGsbUpper)), masks[2] = mask_ge(e, splatf(kGsbHigh));
      u16* half = halves + (j / kWordBits * P * T + P * t) * 2 + j / kLanes % 2;
      for (int p = 0; p < P; p++) half[2 * p] = static_cast<uint16_t>(masks[p]);
    }
  }
  for (int t = 0; t < T; t++) {
    for (int p = 0; p < P; p++) {
      sums[t][p] = 0;
      for (long w = 0; w < h.key_words; w++) sums[t][p] += __builtin_popcount(planes[(w * T + t) * P + p]);
    }
  }
}

#if !defined(BHVIT_OWN_INDEX)
// acc[t] += set bits of (plane 0 AND weights) + twice those of (plane 1 AND weights); planes are [word][2*token + plane].
template <int T>
BHVIT_INLINE void level_count(i32x16 (&acc)[T], const u32* planes, const u32* weight, long words) {
  i32x16 twos[T];
  for (int t = 0; t < T; t++) twos[t] = splati(0);
  and_count<T, 2>(acc, planes, 2 * T, weight, words);
  and_count<T, 2>(twos, planes + 1, 2 * T, weight, words);
  for (int t = 0; t < T; t++) acc[t] = acc[t] + (twos[t] << 1);
}
#endif

// One head of T queries whose bits lie at query_bits, [word][query]: epilogue(i, y) is given I of the head's channels
// i to i + 15.
template <int T, int P, class Epilogue>
BHVIT_INLINE void attend_bits(const Heads& h, long head, const u32* query_bits, const u32* key_tiles,
                              const u32* value_tiles, const QueryScratch& s, Epilogue epilogue) {
  const long depth_words = h.depth / kWordBits, keys16 = round_up(h.keys, kLanes);
  i32x16 least[T];
  for (int t = 0; t < T; t++) least[t] = splati(kNoKey);
  const u32* const queries = prepared<T>(query_bits, T, depth_words, s.index);
  for (long j = 0; j < keys16; j += kLanes) {
    i32x16 acc[T];
    for (int t = 0; t < T; t++) acc[t] = splati(0);
    xor_count<T>(acc, queries, T, weight_tile(key_tiles, j, depth_words), depth_words);
    for (int t = 0; t < T; t++) {
      if (j + kLanes > h.keys) {  // absent keys are farther than any other
        const i32x16 present = loadi(kFirstLanes[h.keys - j]);
        acc[t] = (acc[t] & present) | (splati(kNoKey) & (present ^ splati(-1)));
      }
      least[t] = min(least[t], acc[t]);
      store(s.distances + t * keys16 + j, acc[t]);
    }
  }
  for (int t = 0; t < T; t++) least[t] = splati(min_lanes(least[t]));
  int32_t sums[T][P];
  softmax_levels<T, P>(h, head, s.distances, least, s.planes, sums);
  const u32* planes[P];
  if constexpr (P == 2) {  // both planes of the decomposition are counted together
    planes[0] = prepared_levels<T>(s.planes, h.key_words, s.index);
  } else {
    for (int p = 0; p < P; p++) {
      planes[p] =
          prepared_plane<T, P>(s.planes + p, h.key_words, s.index + p * kIndexWords * (T + T % 2) * h.key_words);
    }
  }
  for (long i = 0; i < h.depth; i += kLanes) {
    const u32* const values = weight_tile(value_tiles, i, h.key_words);
    constexpr int kCounts = P == 2 ? 1 : P;
    i32x16 counts[kCounts][T];
    for (int p = 0; p < kCounts; p++) {
      for (int t = 0; t < T; t++) counts[p][t] = splati(0);
      if constexpr (P == 2) {
        level_count<T>(counts[p], planes[p], values, h.key_words);
      } else {
        and_count<T, P>(counts[p], planes[p], P * T, values, h.key_words);
      }
    }
    f32x16 y[T];
    for (int t = 0; t < T; t++) {
      // Of values 2b - 1: twice the levels of set bits less all levels.
      if constexpr (P == 2) {
        const int32_t all = sums[t][0] + 2 * sums[t][1];
        y[t] = to_float((counts[0][t] << 1) - splati(all));
      } else {
        y[t] = to_float((counts[0][t] << 1) - splati(sums[t][0]));
      }
      if constexpr (P == 3) {
        const f32x16 upper = to_float((counts[1][t] << 1) - splati(sums[t][1]));
        const f32x16 high = to_float((counts[2][t] << 1) - splati(sums[t][2]));
        y[t] = (y[t] + upper * splatf(h.plane_scale[0])) + high * splatf(h.plane_scale[1]);
      }
    }
    epilogue(i, y);
  }
}

// Keys of one head as a tile of numbers: [key/16][channel][key%16]. key(j) is key j's first number of the head.
template <class Key>
BHVIT_INLINE void tile_key_values(const Heads& h, Key key, float* tiles) {
  for (long j = 0; j < round_up(h.keys, kLanes); j++) {
    for (long d = 0; d < h.depth; d++) {
      tiles[(j / kLanes * h.depth + d) * kLanes + j % kLanes] = j < h.keys ? key(j)[d] : 0.0f;
    }
  }
}

// `attend_bits` to rows of `out`, `stride` apart. Not inlined: the kernels that are not tuned share one copy.
template <int T, int P>
BHVIT_NOINLINE void attend_bit_rows(const Heads& h, long head, const u32* query_bits, const u32* key_tiles,
                                    const u32* value_tiles, const QueryScratch& s, float* out, long stride) {
  attend_bits<T, P>(h, head, query_bits, key_tiles, value_tiles, s, [&](long i, const f32x16(&y)[T]) {
    for (int t = 0; t < T; t++) store(out + t * stride + i, y[t]);
  });
}

// One head of T queries on numbers, to rows of `out`; query(t) and value(j) give the first number of the head in their
// rows.
template <int T, class Query, class Value>
BHVIT_NOINLINE void attend_values(const Heads& h, Query query, const float* key_tiles, Value value,
                                  const QueryScratch& s, float* out, long stride) {
  const long keys16 = round_up(h.keys, kLanes);
  const f32x16 scale = splatf(1.0f / __builtin_sqrtf(static_cast<float>(h.depth)));
  const i32x16 lowest = as_int(splatf(-__builtin_inff()));
  float* const rows = reinterpret_cast<float*>(s.distances);
  for (long j = 0; j < keys16; j += kLanes) {
    f32x16 score[T];
    for (int t = 0; t < T; t++) score[t] = splatf(0.0f);
    for (long d = 0; d < h.depth; d++) {
      const f32x16 k = loadf(key_tiles + (j * h.depth + d * kLanes));
      for (int t = 0; t < T; t++) score[t] = score[t] + splatf(query(t)[d]) * k;
    }
    for (int t = 0; t < T; t++) {
      i32x16 bits = as_int(score[t] * scale);
      if (j + kLanes > h.keys) {
        const i32x16 present = loadi(kFirstLanes[h.keys - j]);
        bits = (bits & present) | (lowest & (present ^ splati(-1)));
      }
      store(rows + t * keys16 + j, bits);
    }
  }
  for (int t = 0; t < T; t++) {
    float* const row = rows + t * keys16;
    f32x16 highest = loadf(row);
    for (long j = kLanes; j < keys16; j += kLanes) highest = max(highest, loadf(row + j));
    const float top = max_lanes(highest);
    f32x16 total = splatf(0.0f);
    for (long j = 0; j < keys16; j += kLanes) {
      f32x16 e = exp32(loadf(row + j) - splatf(top));
      if (j + kLanes > h.keys) e = as_float(as_int(e) & loadi(kFirstLanes[h.keys - j]));
      store(row + j, e);
      total = total + e;
    }
    const f32x16 inverse = splatf(1.0f / sum_lanes(total));
    for (long j = 0; j < keys16; j += kLanes) store(row + j, loadf(row + j) * inverse);
  }
  for (long i = 0; i < h.depth; i += kLanes) {
    f32x16 y[T];
    for (int t = 0; t < T; t++) y[t] = splatf(0.0f);
    for (long j = 0; j < h.keys; j++) {
      const f32x16 v = loadf(value(j) + i);
      for (int t = 0; t < T; t++) y[t] = y[t] + splatf(rows[t * keys16 + j]) * v;
    }
    for (int t = 0; t < T; t++) store(out + t * stride + i, y[t]);
  }
}

// v of `context` in format/ops/attend.py: normed products of one row, in place.
BHVIT_INLINE void norm_products(float* row, long channels, const float* weight_scale, const float* scale,
                                const float* shift) {
  if (weight_scale) {
    for (long c = 0; c < channels; c += kLanes) store(row + c, loadf(row + c) * loadf(weight_scale + c));
    layer_norm(row, channels, scale, shift, row);
  } else {
    for (long c = 0; c < channels; c += kLanes) store(row + c, loadf(row + c) * loadf(scale + c) + loadf(shift + c));
  }
}

// c = prelu(v + zs, slope) for one row of normed products.
BHVIT_INLINE f32x16 context_of(const f32x16& v, const float* zs, const float* slope) {
  return prelu(v + loadf(zs), loadf(slope));
}

}  // namespace
}  // namespace bhvit

#endif
