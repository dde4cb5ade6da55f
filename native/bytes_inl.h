// Population count by bytes, for instruction sets that cannot count the set bits of 32-bit lanes.
//
// Before including it, after vectors_inl.h, a file defines in the unnamed namespace of bhvit:
//   kStrip                       native vectors of 16 outputs that one pass covers; as many as registers hold
//   kChains                      independent sums of `peak`, as many as hide the latency of counting
//   Bytes count_bytes(Bytes v)   set bits of each byte
//   NativeI sum_bytes(Bytes v)   sums of the four bytes of each 32-bit lane
//
// A byte of XORed bits counts at most 8, so bytes hold the sums of 31 words (248) before they are widened.

#pragma once

#include "vectors_inl.h"

namespace bhvit {
namespace {

constexpr long kWordsPerByteSum = 255 / 8;
constexpr int kVectors = kLanes / BHVIT_NATIVE_LANES;  // of 16 outputs

template <int n>
BHVIT_INLINE NativeI& native(i32x16& v) {
#if BHVIT_NATIVE_LANES == 16
  return v;
#elif BHVIT_NATIVE_LANES == 8
  if constexpr (n == 0) return v.lo;
  else return v.hi;
#else
  if constexpr (n == 0) return v.lo.lo;
  else if constexpr (n == 1) return v.lo.hi;
  else if constexpr (n == 2) return v.hi.lo;
  else return v.hi.hi;
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
BHVIT_INLINE void count_strips(i32x16 (&acc)[T], const u32* bits, long stride, long step, const u32* weight,
                               long words, Combine combine) {
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

template <int T>
BHVIT_INLINE void xor_count(i32x16 (&acc)[T], const u32* bits, long stride, const u32* weight, long words) {
  count<T>(acc, bits, stride, 1, weight, words, [](const Bytes& w, const Bytes& a) { return w ^ a; });
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
