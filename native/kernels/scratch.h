// Scratch memory of the kernels: one layout each, which the engine runs without memory to count its bytes.
//
// Everything lies in an unnamed namespace: each file has its own copy, compiled for its own instruction set.

#pragma once

#include "kernels/kernels.h"

#define BHVIT_INLINE __attribute__((always_inline)) inline

namespace bhvit {
namespace {

BHVIT_INLINE long divide_up(long count, long unit) { return (count + unit - 1) / unit; }
BHVIT_INLINE long round_up(long count, long unit) { return divide_up(count, unit) * unit; }

// Hands out parts of a block, each on 64 bytes. Without a block it hands out null pointers and counts.
struct Scratch {
  char* block = nullptr;
  long used = 0;

  template <class T>
  BHVIT_INLINE T* take(long count) {
    T* part = block ? reinterpret_cast<T*>(block + used) : nullptr;
    used += round_up(count * static_cast<long>(sizeof(T)), 64);
    return part;
  }
};

struct LinearScratch {
  uint32_t* bits;  // [word][token]
  float *activations, *out;  // [token][input]; [output/16][token][16]
  BHVIT_INLINE LinearScratch(Scratch& s, long inputs, long outputs)
      : bits(s.take<uint32_t>(kMaxBlock * inputs / kWordBits)),
        activations(s.take<float>(kMaxBlock * inputs)),
        out(s.take<float>(kMaxBlock * outputs)) {}
};

struct MixerScratch {
  uint32_t* words;  // [dilation][group][word][token]
  float* sums;      // [token][channel], before layer norm
  BHVIT_INLINE MixerScratch(Scratch& s, const MixerArgs& a)
      : words(a.weight ? s.take<uint32_t>(kDilations * a.groups * a.words * a.row_stride) : nullptr),
        sums(a.sum_shift ? s.take<float>(a.width * a.channels) : nullptr) {}
};

struct PoolingScratch {
  float* means;  // [channel], before layer norm
  BHVIT_INLINE PoolingScratch(Scratch& s, const PoolingArgs& a)
      : means(a.layer ? s.take<float>(a.channels) : nullptr) {}
};

struct MlpScratch {
  float* residual;  // [i][period/16][token][16]
  float* mean;      // [channel/16][token][16]
  uint32_t *bits, *hidden_bits;  // [word][token]
  BHVIT_INLINE MlpScratch(Scratch& s, const MlpArgs& a)
      : residual(s.take<float>(kMaxBlock * a.hidden / a.channels * a.period)),
        mean(s.take<float>(kMaxBlock * a.channels)),
        bits(s.take<uint32_t>(kMaxBlock * a.channels / kWordBits)),
        hidden_bits(s.take<uint32_t>(kMaxBlock * a.hidden / kWordBits)) {}
};

struct MlpGeneralScratch {
  float *residual, *mean;  // as those of MlpScratch
  float* hidden;           // [token][hidden], or their bits [word][token]
  LinearScratch linear;
  BHVIT_INLINE MlpGeneralScratch(Scratch& s, const MlpArgs& a)
      : residual(s.take<float>(kMaxBlock * a.hidden / a.channels * a.period)),
        mean(s.take<float>(kMaxBlock * a.channels)),
        hidden(s.take<float>(kMaxBlock * a.hidden)),
        linear(s, a.hidden, a.hidden) {}
};

// Of kMaxBlock queries.
struct QueryScratch {
  uint32_t* bits;      // [word][query], of one head
  int32_t* distances;  // [query][key], or scores and probabilities
  uint32_t* planes;    // [key word][P*query + plane]
  BHVIT_INLINE QueryScratch(Scratch& s, const Heads& h)
      : bits(s.take<uint32_t>(kMaxBlock * h.depth / kWordBits)),
        distances(s.take<int32_t>(kMaxBlock * round_up(h.keys, kLanes))),
        planes(s.take<uint32_t>(kMaxBlock * 3 * h.key_words)) {}
};

struct ProjectScratch {
  float* tokens;   // [token][channel]
  uint32_t* bits;  // [projection][word][token]
  BHVIT_INLINE ProjectScratch(Scratch& s, const AttentionArgs& a)
      : tokens(s.take<float>(kMaxBlock * a.channels)),
        bits(s.take<uint32_t>(kProjections * kMaxBlock * a.channels / kWordBits)) {}
};

struct ProjectGeneralScratch {
  float* tokens;  // [token][channel]
  LinearScratch linear;
  BHVIT_INLINE ProjectGeneralScratch(Scratch& s, const AttentionArgs& a)
      : tokens(s.take<float>(kMaxBlock * a.channels)), linear(s, a.channels, a.channels) {}
};

struct WindowScratch {
  uint32_t *key_tiles, *value_tiles;  // of bits
  float* key_values;                  // of numbers
  QueryScratch queries;
  int32_t* rows;    // [key]
  float* products;  // [query][channel of a head]
  BHVIT_INLINE WindowScratch(Scratch& s, const AttentionArgs& a)
      : key_tiles(a.heads.planes ? s.take<uint32_t>(round_up(a.heads.keys, kLanes) * a.heads.depth / kWordBits) : nullptr),
        value_tiles(a.heads.planes ? s.take<uint32_t>(a.heads.depth * a.heads.key_words) : nullptr),
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

struct PooledKeysScratch {
  float *means, *reduced;  // [key][channel]
  LinearScratch linear;
  BHVIT_INLINE PooledKeysScratch(Scratch& s, const PooledArgs& a)
      : means(s.take<float>(kMaxBlock * a.channels)),
        reduced(s.take<float>(kMaxBlock * a.channels)),
        linear(s, a.channels, a.channels) {}
};

struct PooledQueriesScratch {
  float *rest, *query, *context;  // [token][channel]: zs; q that are numbers; I, then m
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

struct DownsampleScratch {
  float* pool;     // [token][channel]
  uint32_t* bits;  // [position and word][token]
  BHVIT_INLINE DownsampleScratch(Scratch& s, const DownsampleArgs& a)
      : pool(s.take<float>(kMaxBlock * a.channels)), bits(s.take<uint32_t>(kMaxBlock * 4 * a.channels / kWordBits)) {}
};

struct DownsampleGeneralScratch {
  float* patches;  // [token][row, column, channel]
  float* pool;     // [token][channel]
  LinearScratch linear;
  BHVIT_INLINE DownsampleGeneralScratch(Scratch& s, const DownsampleArgs& a)
      : patches(s.take<float>(kMaxBlock * 4 * a.channels)),
        pool(s.take<float>(kMaxBlock * a.channels)),
        linear(s, a.conv.inputs, a.conv.outputs) {}
};

}  // namespace
}  // namespace bhvit
