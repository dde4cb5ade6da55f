// Population count by bytes, for instruction sets that cannot count the set bits of 32-bit lanes.
//
// Before including it, after vectors_inl.h, a file defines in the unnamed namespace of bhvit:
//   kStrip                       native vectors of 16 outputs that one pass covers; as many as registers hold
//   kChains                      independent sums of `peak`, as many as hide the latency of counting
//   kCarries                     whether counting costs so much that carries of pairs of words are counted instead
//   Bytes count_bytes(Bytes v)   set bits of each byte
//   NativeI sum_bytes(Bytes v)   sums of the four bytes of each 32-bit lane
//
// A byte of XORed bits counts at most 8, so bytes hold the sums of 31 words (248) before they are widened.

#pragma once

#include "kernels/vectors_inl.h"

namespace bhvit {
namespace {

#if !defined(BHVIT_OWN_CARRY)
BHVIT_INLINE Bytes carry(const Bytes& p0, const Bytes& p1, const Bytes& p2) { return (p0 | p1) & ~(p1 & p2); }
#endif

constexpr long kWordsPerByteSum = 255 / 8;
constexpr int kVectors = kLanes / BHVIT_NATIVE_LANES;  // of 16 outputs

template <int n>
BHVIT_INLINE NativeI& native(i32x16& v) {
#if BHVIT_NATIVE_LANES == 16
  return v;
#elif BHVIT_NATIVE_LANES == 8
  if constexpr (n == 0)
    return v.lo;
  else
    return v.hi;
#else
  if constexpr (n == 0)
    return v.lo.lo;
  else if constexpr (n == 1)
    return v.lo.hi;
  else if constexpr (n == 2)
    return v.hi.lo;
  else
    return v.hi.hi;
#endif
}

template <int first, int i = 0>
BHVIT_INLINE void widen(i32x16& acc, const Bytes (&sums)[kStrip]) {
  NativeI& lanes = native<first + i>(acc);
  lanes = lanes + sum_bytes(sums[i]);
  if constexpr (i + 1 < kStrip) widen<first, i + 1>(acc, sums);
}

// Outputs of native vectors `first` and on, over at most kWordsPerByteSum words.
template <int T, int first, class Combine>
BHVIT_INLINE void count_strips(i32x16 (&acc)[T], const u32* bits, long stride, long step, const u32* weight, long words,
                               Combine combine) {
  Bytes sums[T][kStrip];
  for (int t = 0; t < T; t++) {
    for (int i = 0; i < kStrip; i++) sums[t][i] = Bytes{};
  }
  const u32 *word = bits, *tile = weight + first * BHVIT_NATIVE_LANES;
  for (long w = 0; w < words; w++, word += stride, tile += kLanes) {
    Bytes weights[kStrip];
    for (int i = 0; i < kStrip; i++) weights[i] = load<Bytes>(tile + i * BHVIT_NATIVE_LANES);
    for (int t = 0; t < T; t++) {
      const Bytes a = (Bytes)splat<NativeU>(word[step * t]);
      for (int i = 0; i < kStrip; i++) sums[t][i] = sums[t][i] + count_bytes(combine(weights[i], a));
    }
  }
  for (int t = 0; t < T; t++) widen<first>(acc[t], sums[t]);
  if constexpr (first + kStrip < kVectors) {
    count_strips<T, first + kStrip>(acc, bits, stride, step, weight, words, combine);
  }
}

template <int T, class Combine>
BHVIT_INLINE void count(i32x16 (&acc)[T], const u32* bits, long stride, long step, const u32* weight, long words,
                        Combine combine) {
  while (words > 0) {
    const long part = words < kWordsPerByteSum ? words : kWordsPerByteSum;
    count_strips<T, 0>(acc, bits, stride, step, weight, part, combine);
    bits += part * stride;
    weight += part * kLanes;
    words -= part;
  }
}

// Where popcount is expensive, half of it can be saved. Let x be weights XOR activations of successive words and p the XOR of
// all x so far, which is the XOR of the weights so far XOR that of the activations, so that a word costs one operation.
// Adding two words to p leaves a new p and a carry, worth two, in every bit: carries are counted after every pair, p but
// once, at the end. The carry is the majority of p0, x1 = p0^p1 and x2 = p1^p2, which is p0 | p1 unless p1 & p2.
constexpr long kCarryWords = 30;       // twice 15 carries and p, of 8 bits, are at most 248
constexpr long kFewestCarryWords = 6;  // fewer do not pay for counting p

// Outputs of native vector `first` and on; `parities` has the XOR of each token's words so far, [word][token].
template <int T, int first>
BHVIT_INLINE void count_carries(i32x16 (&acc)[T], const u32* parities, const u32* weight, long words) {
  Bytes carries[T], p0[T];
  for (int t = 0; t < T; t++) carries[t] = p0[t] = Bytes{};
  const u32 *parity = parities, *tile = weight + first * BHVIT_NATIVE_LANES;
  Bytes sum{};
  for (long w = 0; w + 2 <= words; w += 2, parity += 2 * T, tile += 2 * kLanes) {
    const Bytes sum1 = sum ^ load<Bytes>(tile), sum2 = sum1 ^ load<Bytes>(tile + kLanes);
    for (int t = 0; t < T; t++) {
      const Bytes p1 = sum1 ^ (Bytes)splat<NativeU>(parity[t]), p2 = sum2 ^ (Bytes)splat<NativeU>(parity[T + t]);
      carries[t] = carries[t] + count_bytes(carry(p0[t], p1, p2));
      p0[t] = p2;
    }
    sum = sum2;
  }
  for (int t = 0; t < T; t++) {
    Bytes total = carries[t] + carries[t] + count_bytes(p0[t]);
    if (words % 2) total = total + count_bytes(p0[t] ^ sum ^ load<Bytes>(tile) ^ (Bytes)splat<NativeU>(parity[t]));
    NativeI& lanes = native<first>(acc[t]);
    lanes = lanes + sum_bytes(total);
  }
  if constexpr (first + 1 < kVectors) count_carries<T, first + 1>(acc, parities, weight, words);
}

template <int T>
BHVIT_INLINE void xor_count(i32x16 (&acc)[T], const u32* bits, long stride, const u32* weight, long words) {
  if (!kCarries || words < kFewestCarryWords) {
    return count<T>(acc, bits, stride, 1, weight, words, [](const Bytes& w, const Bytes& a) { return w ^ a; });
  }
  while (words > 0) {
    const long part = words < kCarryWords ? words : kCarryWords;
    u32 parities[kCarryWords * T];
    for (int t = 0; t < T; t++) parities[t] = bits[t];
    for (long w = 1; w < part; w++) {
      for (int t = 0; t < T; t++) parities[w * T + t] = parities[(w - 1) * T + t] ^ bits[w * stride + t];
    }
    count_carries<T, 0>(acc, parities, weight, part);
    bits += part * stride;
    weight += part * kLanes;
    words -= part;
  }
}

template <int T, int step>
BHVIT_INLINE void and_count(i32x16 (&acc)[T], const u32* bits, long stride, const u32* weight, long words) {
  count<T>(acc, bits, stride, step, weight, words, [](const Bytes& w, const Bytes& a) { return w & a; });
}

long peak(long rounds, int32_t* sink) {
  Bytes total[kChains], values[kChains];
  for (int i = 0; i < kChains; i++) {
    total[i] = Bytes{};
    values[i] = (Bytes)splat<NativeI>(sink[i]);
  }
  Bytes mask = load<Bytes>(sink);
  for (long round = 0; round < rounds; round++) {
    asm volatile("" : "+" BHVIT_REGISTER(mask));  // or the compiler would count each XOR once for all rounds
    for (int i = 0; i < kChains; i++) total[i] = total[i] + count_bytes(values[i] ^ mask);
  }
  for (int i = 1; i < kChains; i++) total[0] = total[0] + total[i];
  store(sink, total[0]);
  return rounds * kChains * BHVIT_NATIVE_LANES * kWordBits;
}

}  // namespace
}  // namespace bhvit
