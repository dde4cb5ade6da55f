// Counting bits by look-ups of nibbles, for WebAssembly: its engines on x86-64 take six instructions for a popcount of
// 16 bytes, and no vector there is longer.
//
// A nibble of each of two tokens chooses one of 256 tables of 16 bytes. A nibble of the
// weights of each of 16 outputs chooses an entry of the table, whose halves are the set bits of (token XOR weight) of
// either token: one shuffle counts 128 bits. Three such bytes add up to at most 12 a half, then the halves are parted.
//
// Before including it, after vectors_inl.h, a file defines in the unnamed namespace of bhvit:
//   Bytes look_up_bytes(Bytes table, Bytes index)   table[index[l]], for indices below 16
//
// Weights are expanded to nibbles, [nibble][16] bytes a tile (kWeightWords), and tokens to their tables (kIndexWords):
// what counts is how many instructions a look-up takes.

#pragma once

#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

typedef uint16_t Halves __attribute__((vector_size(16)));

constexpr long kNibbles = 8;             // of a word
constexpr long kWordsPerByteSum = 6;     // 48 nibbles count at most 192, and three divide them
constexpr long kWordsPerHalfSum = 2046;  // 65472 bits

// Entries are f(a, w) of the low half of the table's number + 16 * f of the high half; or, in `levels`, bits of the low
// half count once and those of the high half twice.
struct CountTables {
  alignas(16) uint8_t differing[256][16], common[256][16], levels[256][16];
  CountTables() {
    constexpr int kSetBits[16] = {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4};
    for (int a = 0; a < 256; a++) {
      const int low = a % 16, high = a / 16;
      for (int w = 0; w < 16; w++) {
        differing[a][w] = static_cast<uint8_t>(kSetBits[low ^ w] + 16 * kSetBits[high ^ w]);
        common[a][w] = static_cast<uint8_t>(kSetBits[low & w] + 16 * kSetBits[high & w]);
        levels[a][w] = static_cast<uint8_t>(kSetBits[low & w] + 2 * kSetBits[high & w]);
      }
    }
  }
};
const CountTables kCountTables;  // made at the start: as constants they would be loaded with the module

typedef const uint8_t (&CountTables256)[256][16];

constexpr long kPairBytes = kNibbles * 16;  // tables of a word of a pair of tokens

// The tables of nibbles 0 to 7 of two words, `step` bytes apart.
BHVIT_INLINE void store_tables(CountTables256 tables, u32 low, u32 high, uint8_t* to, long step) {
  const u32 even = (low & 0x0f0f0f0f) | (high & 0x0f0f0f0f) << 4, odd = (low >> 4 & 0x0f0f0f0f) | (high & 0xf0f0f0f0);
  for (int n = 0; n < kNibbles; n++, to += step) {
    store(to, load<Bytes>(tables[(n % 2 ? odd : even) >> n / 2 * 8 & 255]));
  }
}

// Tables of T tokens, [nibble][pair of tokens][16].
template <int T, int step = 1>
BHVIT_INLINE const u32* prepared_tables(CountTables256 tables, const u32* bits, long stride, long words, u32* index) {
  constexpr long P = (T + 1) / 2;
  uint8_t* to = reinterpret_cast<uint8_t*>(index);
  for (long w = 0; w < words; w++, bits += stride, to += P * kPairBytes) {
    for (int t = 0; t < T; t += 2) {
      store_tables(tables, bits[step * t], t + 1 < T ? bits[step * (t + 1)] : 0, to + t / 2 * 16, P * 16);
    }
  }
  return index;
}

template <int T>
BHVIT_INLINE const u32* prepared(const u32* bits, long stride, long words, u32* index) {
  return prepared_tables<T>(kCountTables.differing, bits, stride, words, index);
}

// The same of a plane, for and_count.
template <int T, int step>
BHVIT_INLINE const u32* prepared_plane(const u32* bits, long words, u32* index) {
  return prepared_tables<T, step>(kCountTables.common, bits, step * T, words, index);
}

// Of two planes of T tokens, [word][2*token + plane]: what level_count takes, [nibble][token][16].
template <int T>
BHVIT_INLINE const u32* prepared_levels(const u32* planes, long words, u32* index) {
  uint8_t* to = reinterpret_cast<uint8_t*>(index);
  for (long w = 0; w < words; w++, planes += 2 * T, to += T * kPairBytes) {
    for (int t = 0; t < T; t++) {
      store_tables(kCountTables.levels, planes[2 * t], planes[2 * t + 1], to + t * 16, T * 16);
    }
  }
  return index;
}

BHVIT_INLINE void widen_bytes(const Bytes& v, Halves (&halves)[2]) {
  halves[0] = __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), Halves);
  halves[1] = __builtin_convertvector(__builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15), Halves);
}

BHVIT_INLINE i32x16 widen_halves(const Halves (&halves)[2]) {
  typedef uint16_t Quarter __attribute__((vector_size(8)));
  const auto lanes = [](const Halves& v) -> Pair<NativeI> {
    const Quarter low = __builtin_shufflevector(v, v, 0, 1, 2, 3), high = __builtin_shufflevector(v, v, 4, 5, 6, 7);
    return {__builtin_convertvector(low, NativeI), __builtin_convertvector(high, NativeI)};
  };
  return {lanes(halves[0]), lanes(halves[1])};
}

// Calls fn.operator()<i>() for i below n. Arrays are then indexed by constants from the first, and live in registers.
template <int n, class Fn>
BHVIT_INLINE void unrolled(Fn fn) {
  if constexpr (n > 0) {
    unrolled<n - 1>(fn);
    fn.template operator()<n - 1>();
  }
}
#define BHVIT_UNROLLED(i) [&]<int i>() __attribute__((always_inline))

// Keeps what comes before it in front of what comes after: LLVM would load all tables first, more than registers hold.
#define BHVIT_IN_ORDER asm volatile("" ::: "memory")

// Look-ups of at most kWordsPerByteSum words of P pairs of tokens. `low` gets the sums of the pairs' first tokens. A half
// of `high` has two outputs: the sum of the second token for the first one, and 16 times that of the first token and 256
// times that of the second for the other.
template <int P>
BHVIT_INLINE void count_part(Bytes (&low)[P], Halves (&high)[P], const uint8_t* tables, const uint8_t* nibbles,
                             long words) {
  const Bytes half = splat<Bytes>(static_cast<uint8_t>(15));
  unrolled<P>(BHVIT_UNROLLED(p) {
    low[p] = Bytes{};
    high[p] = Halves{};
  });
  const auto part = [&]<int p>(const Bytes& sum) __attribute__((always_inline)) {
    low[p] = low[p] + (sum & half);
    high[p] = high[p] + ((Halves)sum >> 4);
  };
  // V8 takes all loads of a block first: three look-ups of each pair are as many as registers hold.
  long left = words * kNibbles;
  for (; left >= 3; left -= 3, tables += 3 * P * 16, nibbles += 3 * 16) {
    const Bytes w0 = load<Bytes>(nibbles), w1 = load<Bytes>(nibbles + 16), w2 = load<Bytes>(nibbles + 32);
    unrolled<P>(BHVIT_UNROLLED(p) {
      const uint8_t* table = tables + p * 16;
      const Bytes first = look_up_bytes(load<Bytes>(table), w0);
      const Bytes second = look_up_bytes(load<Bytes>(table + P * 16), w1);
      part.template operator()<p>(first + second + look_up_bytes(load<Bytes>(table + 2 * P * 16), w2));
      BHVIT_IN_ORDER;
    });
  }
#pragma clang loop unroll(disable)
  for (; left > 0; left--, tables += P * 16, nibbles += 16) {
    const Bytes weights = load<Bytes>(nibbles);
    unrolled<P>(
        BHVIT_UNROLLED(p) { part.template operator()<p>(look_up_bytes(load<Bytes>(tables + p * 16), weights)); });
  }
}

// The sums of a pair's tokens, [token of the pair][half of the outputs].
BHVIT_INLINE void part_pair(const Bytes& low, const Halves& high, Halves (&sums)[2][2]) {
  widen_bytes(low, sums[0]);
  widen_bytes((Bytes)(high - ((Halves)low >> 8 << 4)), sums[1]);
}

// Sums of P pairs. Not inlined: all but a last part of many pairs, and single pairs, which are seldom counted.
template <int P>
BHVIT_NOINLINE void count_words(Halves (&sums)[P][2][2], const uint8_t* tables, const uint8_t* nibbles, long words) {
  for (bool further = false; words > 0; further = true) {
    const long part = words < kWordsPerByteSum ? words : kWordsPerByteSum;
    Bytes low[P];
    Halves high[P];
    count_part<P>(low, high, tables, nibbles, part);
    tables += part * P * kPairBytes;
    nibbles += part * kNibbles * 16;
    words -= part;
    unrolled<P>(BHVIT_UNROLLED(p) {
      Halves part[2][2];
      part_pair(low[p], high[p], part);
      for (int i = 0; i < 4; i++) {
        Halves* const sum = &sums[p][i / 2][i % 2];
        store(sum, further ? load<Halves>(sum) + part[i / 2][i % 2] : part[i / 2][i % 2]);
      }
    });
  }
}

// Calls each.operator()<p>(sums) for pairs p of T tokens with their set bits over at most kWordsPerHalfSum words, one pair
// after the other, so that few values are alive at a time: `sums` has 16-bit integers, as part_pair gives them.
template <int T, class Each>
BHVIT_INLINE void sum_pairs(const u32* index, const u32* weight, long words, Each each) {
  constexpr int P = (T + 1) / 2;
  const uint8_t *tables = reinterpret_cast<const uint8_t*>(index), *nibbles = reinterpret_cast<const uint8_t*>(weight);
  Halves before[P][2][2];
  if constexpr (P == 1) {
    count_words<P>(before, tables, nibbles, words);
    each.template operator()<0>(before[0]);
    return;
  }
  const bool further = words > kWordsPerByteSum;
  if (further) {
    const long first = (words - 1) / kWordsPerByteSum * kWordsPerByteSum;
    count_words<P>(before, tables, nibbles, first);
    tables += first * P * kPairBytes;
    nibbles += first * kNibbles * 16;
    words -= first;
  }
  Bytes low[P];
  Halves high[P];
  count_part<P>(low, high, tables, nibbles, words);
  unrolled<P>(BHVIT_UNROLLED(p) {
    Halves sums[2][2];
    part_pair(low[p], high[p], sums);
    if (further) {
      for (int i = 0; i < 4; i++) sums[i / 2][i % 2] = sums[i / 2][i % 2] + load<Halves>(&before[p][i / 2][i % 2]);
    }
    each.template operator()<p>(sums);
    BHVIT_IN_ORDER;
  });
}

template <int T>
BHVIT_INLINE void count_pairs(i32x16 (&acc)[T], const u32* index, const u32* weight, long words) {
  while (words > 0) {
    const long most = words < kWordsPerHalfSum ? words : kWordsPerHalfSum;
    sum_pairs<T>(index, weight, most, [&]<int p>(const Halves(&sums)[2][2]) __attribute__((always_inline)) {
      acc[2 * p] = acc[2 * p] + widen_halves(sums[0]);
      if constexpr (2 * p + 1 < T) acc[2 * p + 1] = acc[2 * p + 1] + widen_halves(sums[1]);
    });
    index += most * ((T + 1) / 2) * kPairBytes / static_cast<long>(sizeof *index);
    weight += most * kLanes * kWeightWords;
    words -= most;
  }
}

// 2^23 + sums of outputs 4*q to 4*q + 3 as floats: 16 bits below the exponent of 2^23.
template <int q>
BHVIT_INLINE NativeF raised_floats(const Halves (&sums)[2]) {
  const Halves exponent = splat<Halves>(static_cast<uint16_t>(0x4b00));
  constexpr int i = q % 2 * 4;
  return (NativeF)__builtin_shufflevector(sums[q / 2], exponent, i, i + 8, i + 1, i + 9, i + 2, i + 10, i + 3, i + 11);
}

// Counts the first words of rows that are too long for 16 bits. Not inlined: no published model has such.
template <int T>
BHVIT_NOINLINE void count_first(i32x16* first, const u32* index, const u32* weight, long words) {
  i32x16 acc[T];
  for (int t = 0; t < T; t++) acc[t] = splati(0);
  count_pairs<T>(acc, index, weight, words);
  for (int t = 0; t < T; t++) store(first + t, acc[t]);
}

// Calls each.operator()<p>(raised) for pairs p of T tokens: raised.operator()<side, q>() is 2^23 and the set bits of (token
// XOR weight) of a token of the pair and outputs 4*q to 4*q + 3, as floats: exact, like all sums of these integers.
template <int T, class Each>
BHVIT_INLINE void raised_pairs(const u32* index, const u32* weight, long words, Each each) {
  const long before = words - kWordsPerHalfSum;
  i32x16 first[T];
  if (before > 0) {
    count_first<T>(first, index, weight, before);
    index += before * ((T + 1) / 2) * kPairBytes / static_cast<long>(sizeof *index);
    weight += before * kLanes * kWeightWords;
    words = kWordsPerHalfSum;
  }
  sum_pairs<T>(index, weight, words, [&]<int p>(const Halves(&sums)[2][2]) __attribute__((always_inline)) {
    each.template operator()<p>([&]<int side, int q>() __attribute__((always_inline)) {
      const NativeF y = raised_floats<q>(sums[side]);
      if (__builtin_expect(before > 0, 0)) {
        return y + to_float(load<NativeI>(reinterpret_cast<const char*>(first + 2 * p + side) + q * sizeof(NativeI)));
      }
      return y;
    });
  });
}

// Calls each(t, y) with 2^23 and the set bits of (token XOR weight) of T tokens, as floats.
template <int T, class Each>
BHVIT_INLINE void raised_counts(const u32* index, const u32* weight, long words, Each each) {
  raised_pairs<T>(index, weight, words, [&]<int p, class Raised>(Raised raised) __attribute__((always_inline)) {
    unrolled<(2 * p + 1 < T ? 2 : 1)>(BHVIT_UNROLLED(side) {
      each(2 * p + side, f32x16{{raised.template operator()<side, 0>(), raised.template operator()<side, 1>()},
                                {raised.template operator()<side, 2>(), raised.template operator()<side, 3>()}});
    });
  });
}

BHVIT_INLINE NativeF prelu_if(bool is_gentle, const NativeF& v, const NativeF& slope) {
  const NativeF product = v * slope;
  if (__builtin_expect(is_gentle, 1)) return larger(product, v);
  BHVIT_IN_ORDER;  // or both would be computed
  return v > 0 ? v : product;
}

template <int T>
struct XorProducts {
  int32_t start;
  const u32* index;
  const u32* weight;
  long words;

  template <class Each>
  BHVIT_INLINE void operator+(Each each) const {
    const f32x16 base = splatf(0x1p23f - static_cast<float>(start));
    raised_counts<T>(index, weight, words,
                     [&](int t, const f32x16& y) __attribute__((always_inline)) { each(t, y - base); });
  }
};
// As in linear_inl.h, but each product is finished before the next one is counted.
#define BHVIT_EACH_PRODUCT(T, start, rows, stride, weight, words) \
  XorProducts<T>{start, rows, weight, words} + [&](int t, const f32x16& product) __attribute__((always_inline))

template <int T>
BHVIT_INLINE void xor_count(i32x16 (&acc)[T], const u32* index, long, const u32* weight, long words) {
  count_pairs<T>(acc, index, weight, words);
}

template <int T, int step>
BHVIT_INLINE void and_count(i32x16 (&acc)[T], const u32* index, long, const u32* weight, long words) {
  count_pairs<T>(acc, index, weight, words);
}

// acc[t] += set bits of (plane 0 AND weights) + twice those of (plane 1 AND weights).
template <int T>
BHVIT_INLINE void level_count(i32x16 (&acc)[T], const u32* index, const u32* weight, long words) {
  constexpr long kPart = 2;  // words: 16 nibbles count at most 192
  const uint8_t* tables = reinterpret_cast<const uint8_t*>(index);
  const uint8_t* nibbles = reinterpret_cast<const uint8_t*>(weight);
  for (; words > 0; words -= kPart) {
    Bytes sums[T];
    unrolled<T>(BHVIT_UNROLLED(t) { sums[t] = Bytes{}; });
    for (long left = (words < kPart ? words : kPart) * kNibbles; left > 0; left -= 2, tables += 2 * T * 16) {
      const Bytes w0 = load<Bytes>(nibbles), w1 = load<Bytes>(nibbles + 16);
      nibbles += 2 * 16;
      unrolled<T>(BHVIT_UNROLLED(t) {
        const Bytes first = look_up_bytes(load<Bytes>(tables + t * 16), w0);
        sums[t] = sums[t] + (first + look_up_bytes(load<Bytes>(tables + (T + t) * 16), w1));
      });
    }
    unrolled<T>(BHVIT_UNROLLED(t) {
      Halves wide[2];
      widen_bytes(sums[t], wide);
      acc[t] = acc[t] + widen_halves(wide);
    });
  }
}

// Tiles of `words` words, [word][16], to [nibble][16] bytes.
BHVIT_NOINLINE void expand_weights(const u32* from, long words, u32* out) {
  const Bytes half = splat<Bytes>(static_cast<uint8_t>(15));
  for (long w = 0; w < words; w++, from += kLanes) {
    Bytes pairs[2][2];  // bytes 2*i and 2*i + 1 of outputs 0 to 7, and of 8 to 15
    for (int side = 0; side < 2; side++) {
      const Bytes a = load<Bytes>(from + 8 * side), b = load<Bytes>(from + 8 * side + 4);
      pairs[0][side] = __builtin_shufflevector(a, b, 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
      pairs[1][side] = __builtin_shufflevector(a, b, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
    }
    for (int i = 0; i < 2; i++) {
      const Bytes a = pairs[i][0], b = pairs[i][1];
      const Bytes bytes[2] = {
          __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
          __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)};
      for (const Bytes& byte : bytes) {
        store(out, byte & half);
        store(out + 4, (Bytes)((Halves)byte >> 4) & half);
        out += 8;
      }
    }
  }
}

}  // namespace
}  // namespace bhvit
