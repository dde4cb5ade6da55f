// The kernel table: what one instruction set has to offer, with contracts and overflow bounds.
//
// The arithmetic is stated in src/bhvit/ops.py; here is only how it is cut into pieces. Every kernel
// works on a half-open range of independent items, so that threads can share one op, and gives the same
// bits whatever the range, the instruction set and the number of threads.
//
// Rules for all pointers: tensors, grids and scratch start on 64 bytes; rows of grids do too, because
// channels are multiples of 32. Kernels allocate nothing, throw nothing and include no library code, so
// that no function compiled for one instruction set can be linked into code for another.
//
// Integers: activations are XORed with weights and the set bits counted, so an accumulator of K inputs
// holds -K/2 .. K/2 when it starts at -K/2. K is at most 9 * 8192 (convolutions), 4 * 8192
// (downsampling) or 65536 (second layer of an MLP): far inside int32. All K are even, since channels are
// multiples of 32 and those of a convolution's group of 16. The product is acc = -2 * accumulator; the
// factor goes into the scale (`scale2` = -2 * scale, exact), so that a product costs no arithmetic after
// the counting. Accumulators convert to float exactly (below 2^24).
//
// This header has types only: an inline function here could be compiled for one instruction set and
// linked into code that runs on another.

#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bhvit {

constexpr long kLanes = 16;        // outputs of a weight tile: bits.LANES
constexpr long kWordBits = 32;     // bits.WORD
constexpr long kDilations = 3;     // spec.DILATIONS = 1, 3, 5
constexpr long kBorder = 5;        // the largest of them: zeros around a grid of bits
constexpr long kBorderClasses = 16;
constexpr long kTaps = 9;          // ops.TAPS
constexpr long kProjections = 3;   // q, k, v
constexpr long kMaxBlock = 8;      // tokens that any kernel takes at a time, at most

// stem: items are rows of tokens.
struct StemArgs {
  long height, width, in_chans, patch, channels;
  const float* weight;    // [channels/16][in_chans*patch*patch][16]
  const float* bias;      // [channels]
  const float* position;  // [height*width][channels]
  const float* image;     // (in_chans, height*patch, width*patch)
  float* x;               // [height*width][channels]
};

// n = x*scale + shift: items are tokens.
struct NormArgs {
  long channels;
  const float *scale, *shift;  // [channels]
  const float* x;
  float* n;
};

// mixer: `mixer_bits` (items are rows) fills the planes, then `mixer_conv` (items are rows) adds to x.
//
// planes: [channels/16][plane] of 16-bit halves: bit i of half h at (row, column) is channel 16h + i of
// the token; kBorder zeros lie around the grid and plane_stride is the length of a bordered row.
// Zero bits of taps outside the grid would count as -1; `start` takes that back: it holds -K/2 less half
// of the sum over absent taps of (2*popcount(tap's weight bits) - inputs), for each of 16 border
// classes 4*(row class) + column class, a class being 1 if the tap before is absent + 2 if the one after.
struct MixerArgs {
  long height, width, channels, groups;
  long words;         // of one output's weights: words_for(9 * channels / groups)
  long plane_stride;  // in halves
  long plane_size;    // in halves
  const float *norm_scale, *norm_shift, *out_scale, *out_shift;  // [channels]
  const uint32_t* weight;                                        // [3][channels/16][words][16]
  const float *scale2, *shift, *slope;                           // [3][channels]
  const int32_t* start;                                          // [3][16 classes][channels]
  uint16_t* planes;
  float* x;
  // Scratch of one thread, in words: 3 * groups * words * row_stride.
  long row_stride;  // tokens of a row rounded up to 16
};

// mlp: items are tokens; n is whole before it starts, x is changed in place.
struct MlpArgs {
  long height, width, channels, hidden;
  long period;  // after which the residual of a hidden group i repeats: lcm(channels/r, 16)
  const float *threshold1, *scale2_2, *shift2, *slope2, *out_scale, *out_shift;  // [channels]
  const uint32_t *weight1, *weight2;
  const float *scale2_1, *shift1, *slope1, *threshold2;  // [hidden]
  const float* taps;                                     // [9][channels]
  const int32_t *wrap_rows, *wrap_columns;  // [4][edge]: cyclic index of i-1, i+1, i-2, i+2
  const float* n;
  float* x;
  // Scratch of one thread, bytes, each part rounded up to 64:
  // kMaxBlock * (4*r*period + 4*channels + channels/8 + hidden/8).
};

// attention: norm into `n`, then `attention_pool` (items are global tokens), `attention_project` (items
// are tokens, the global ones last), `attention_heads` (items are heads), `attention_output` (tokens).
struct AttentionArgs {
  long height, width, channels, heads, window_h, window_w;
  long windows, keys;  // keys = window_h * window_w + windows
  long key_words;      // words_for(keys)
  const float *pool_max, *pool_avg, *token_scale, *token_shift;             // [channels]
  const float *in_threshold, *qkv_scale2, *qkv_shift, *qkv_slope, *qkv_threshold;  // [3][channels]
  const uint32_t *qkv_weight, *proj_weight;
  const float* exp_table;  // [channels/heads + 1]
  const float *level_scale, *level_shift;  // [heads]
  const float *ctx_scale, *ctx_shift, *ctx_slope, *mix_local, *mix_global, *mix_shift;   // [channels]
  const float *proj_threshold, *proj_scale2, *proj_shift, *proj_slope, *out_scale, *out_shift;
  float* n;         // [height*width + windows][channels]: the grid, then the global tokens
  float* context;   // same shape: zs, which `attention_heads` turns into c for the grid's tokens
  float* pooled;    // [windows][channels]: cg
  uint16_t* signs;  // [3][height*width + windows][channels/16]
  float* x;
  // Scratch of one thread, bytes, each part rounded up to 64:
  // project, output: kMaxBlock * (4*channels + 3*channels/8);
  // heads, with depth = channels/heads, keys16 = keys rounded up to 16, keys32 to 32:
  //   keys16*depth/8 + depth*key_words*4 + kMaxBlock*(depth/8 + 4*keys16 + 8*key_words) + 4*keys32.
};

// downsample and downsample_float: items are tokens of the result.
struct DownsampleArgs {
  long height, width, channels, out_channels;  // of the input grid
  const float *norm_scale, *norm_shift, *threshold;  // [channels]; binary only
  const uint32_t* weight;                            // [out_channels/16][4*channels/32][16]; binary only
  const float* weight_float;                         // [out_channels/16][4*channels][16]; float only
  const float* bias;                                 // [out_channels]; float only
  const float *scale2, *shift, *slope, *out_shift;   // [out_channels]; binary only
  const float* position;                             // [height/2*width/2][out_channels]
  const float* x;
  float* out;
  // Scratch of one thread, bytes, each part rounded up to 64: kMaxBlock * (4*channels + channels/2).
};

// head: `head_features` (items are groups of 16 channels), then `head_logits` (groups of 16 classes).
struct HeadArgs {
  long tokens, channels, classes;
  const float *norm_scale, *norm_shift;  // [channels]
  const float* weight;                   // [ceil(classes/16)][channels][16]
  const float* bias;                     // [classes rounded up to 16]
  const float* x;
  float* features;  // [channels]
  float* logits;    // [classes rounded up to 16]
};

struct KernelTable {
  const char* name;
  void (*stem)(const StemArgs&, long begin, long end);
  void (*norm)(const NormArgs&, long begin, long end);
  void (*mixer_bits)(const MixerArgs&, long begin, long end);
  void (*mixer_conv)(const MixerArgs&, long begin, long end, void* scratch);
  void (*mlp)(const MlpArgs&, long begin, long end, void* scratch);
  void (*attention_pool)(const AttentionArgs&, long begin, long end);
  void (*attention_project)(const AttentionArgs&, long begin, long end, void* scratch);
  void (*attention_heads)(const AttentionArgs&, long begin, long end, void* scratch);
  void (*attention_output)(const AttentionArgs&, long begin, long end, void* scratch);
  void (*downsample)(const DownsampleArgs&, long begin, long end, void* scratch);
  void (*downsample_float)(const DownsampleArgs&, long begin, long end);
  void (*head_features)(const HeadArgs&, long begin, long end);
  void (*head_logits)(const HeadArgs&, long begin, long end);

  // out[t][o] = set bits of (activations[t] XOR weights of o): integers of a binary linear layer, for
  // tests. activations [tokens][words] need no alignment; out is [tokens][16 * tiles].
  void (*count_xor)(const uint32_t* activations, long tokens, long words, const uint32_t* weight, long tiles,
                    int32_t* out);
  // The same of (activations[t] AND weights of o): a bit plane times values.
  void (*count_and)(const uint32_t* activations, long tokens, long words, const uint32_t* weight, long tiles,
                    int32_t* out);
  // `rounds` rounds of XOR, population count and add on registers only; returns the number of binary
  // multiply-accumulates, and in `sink` a value that depends on all of them.
  long (*peak)(long rounds, int32_t* sink);
};

}  // namespace bhvit
