// The kernel table: what one instruction set has to offer, with contracts and overflow bounds.
//
// The arithmetic is stated in src/bhvit/ops.py; here is only how it is cut into pieces. Every kernel
// works on a half-open range of independent items, so that threads can share one op, and gives the same
// bits whatever the range, the instruction set and the number of threads.
//
// Each kernel with scratch takes it in a layout of scratch.h.
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

// A linear layer and the norm after it, `linear` in ops.py.
struct Linear {
  long inputs, outputs;
  const float* threshold;      // [inputs]
  const uint32_t* bits;        // [outputs/16][inputs/32][16], if activations and weights are both signs; else null
  const float* weight;         // [outputs/16][inputs][16], if not
  bool signs;                  // whether activations are signs
  const float* weight_scale;   // [outputs], with layer norm; null with batch norm
  const float *scale, *shift;  // [outputs]
  // Of products of bits, the first of weight_scale and scale holds the factor -2 of `scale2` above.
};

// stem: items are rows of tokens.
struct StemArgs {
  long height, width, in_chans, patch, channels;
  const float* weight;                   // [channels/16][in_chans*patch*patch][16]
  const float* bias;                     // [channels]
  const float *norm_scale, *norm_shift;  // [channels], of layer norm; null with batch norm, which is in the weights
  bool gelu;
  const float* position;                 // [height*width][channels]
  const float* image;                    // (in_chans, height*patch, width*patch)
  float* x;                              // [height*width][channels]
};

// n = norm(x): items are tokens.
struct NormArgs {
  long channels;
  bool layer;
  const float *scale, *shift;  // [channels]
  const float* x;
  float* n;
};

// Batch norm of what an op leaves in x, done by it for the op that follows: n = x*scale + shift. n is null if nobody asks.
struct NextNorm {
  const float *scale, *shift;  // [channels]
  float* n;                    // [height*width][channels]
};

// mixer: `mixer_bits` (items are rows) fills the planes, then `mixer_conv` (items are rows) adds to x. Where activations
// or weights are numbers, `mixer_values` fills `values` from n, and `mixer_conv_float` adds.
//
// planes: [channels/16][plane] of 16-bit halves: bit i of half h at (row, column) is channel 16h + i of
// the token; kBorder zeros lie around the grid and plane_stride is the length of a bordered row.
// Zero bits of taps outside the grid would count as -1; `start` takes that back: it holds -K/2 less half
// of the sum over absent taps of (2*popcount(tap's weight bits) - inputs), for each of 16 border
// classes 4*(row class) + column class, a class being 1 if the tap before is absent + 2 if the one after.
// values: [bordered token][channels], zeros around the grid, so that absent taps add zero.
struct MixerArgs {
  long height, width, channels, groups;
  long words;         // of one output's weights: words_for(9 * channels / groups)
  long plane_stride;  // in halves, or in tokens of `values`
  long plane_size;    // the same
  const float *norm_scale, *norm_shift;  // [channels]: bits are those of x*norm_scale + norm_shift
  const float *out_scale, *out_shift;    // [channels]
  const float* sum_shift;                // [channels], with layer norm; null with batch norm
  const uint32_t* weight;                // [3][channels/16][words][16]
  const float* weight_float;             // [3][channels/16][inputs][16]
  bool signs;
  const float *scale2, *shift, *slope;   // [3][channels]; scale2 is the scale itself for numbers
  const int32_t* start;                  // [3][16 classes][channels]
  uint16_t* planes;
  float* values;
  const float* source;                   // x, or n where `values` are made or layer norm came first
  float* x;
  NextNorm next;                         // with batch norm
  long row_stride;  // tokens of a row rounded up to 16
};

// pooling: items are tokens; n is whole before it starts.
struct PoolingArgs {
  long height, width, channels;
  bool layer;
  const float *out_scale, *out_shift;  // [channels]
  const float* n;
  float* x;
};

// mlp: items are tokens; n is whole before it starts, x is changed in place. `mlp` takes bits and batch norm,
// `mlp_general` any layers.
struct MlpArgs {
  long height, width, channels, hidden;
  long period;  // after which the residual of a hidden group i repeats: lcm(channels/r, 16)
  Linear first, second;
  const float *slope1, *slope2, *out_scale, *out_shift;
  const float* taps;                        // [9][channels]
  const int32_t *wrap_rows, *wrap_columns;  // [4][edge]: index of i-1, i+1, i-2, i+2, or -1 for zeros
  const float* zeros;                       // [channels]
  const float* n;
  float* x;
  NextNorm next;
};

// The heads of an attention: `attend` in ops.py.
struct Heads {
  long heads, depth;  // depth: channels of a head
  long keys, key_words;  // key_words = words_for(keys)
  int planes;  // bit planes of a level: 1 one_bit, 2 decomposition, 3 gsb; 0: activations are numbers
  const float* exp_table;                  // [depth + 1]
  const float *level_scale, *level_shift;  // [heads]
  const float* plane_scale;                // [2], gsb
};

// attention: norm into `n`, then `attention_pool` (items are global tokens), `attention_project` (items
// are tokens, the global ones last), `attention_heads` (items are windows * heads, window by window),
// `attention_average` (items are global tokens), `attention_output` (tokens).
// With layer norm or numbers: `attention_project_general`, and `attention_heads` leaves I in `products`, which
// `attention_context` (items are windows * keys) turns into c.
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
  float* values;    // [3][height*width + windows][channels]: q, k and v that are numbers
  float* products;  // [windows][keys][channels], or null
  float* globals;   // [window][global token][channels], windows globals_stride apart: c of global tokens, which are the
  long globals_stride;  // last rows of a window's `products` if there are such
  float* x;
  NextNorm next;
};

// pooled_attention: norm into `n`, `pooled_keys` (items are keys), `pooled_tiles` (heads), `pooled_queries` (tokens).
struct PooledArgs {
  long height, width, channels, key_pool;
  Heads heads;
  Linear reduce, qkv[3], proj;
  const float *reduce_slope, *reduce_shift;        // [channels]
  const float *qkv_slope, *qkv_threshold;          // [3][channels]
  const float *ctx_scale, *ctx_shift, *ctx_slope;  // [channels]
  const float* ctx_weight_scale;                   // [channels], with layer norm; null with batch norm
  const float *mix_shift, *proj_slope, *out_scale, *out_shift;
  const float* n;                    // [height*width][channels]
  float *key_rest, *value_rest;      // [keys][channels]: z_k, z_v
  uint16_t *key_signs, *value_signs; // [keys][channels/16]
  float *key_values, *value_values;  // [keys][channels]: k and v that are numbers
  uint32_t *key_tiles, *value_tiles; // of each head as Heads has them
  float* key_tiles_float;
  float* x;
};

// downsample, downsample_general and downsample_float: items are tokens of the result. The first takes bits and batch
// norm and reads x; downsample_general reads n.
struct DownsampleArgs {
  long height, width, channels, out_channels;  // of the input grid
  const float *norm_scale, *norm_shift;              // [channels]; downsample only
  Linear conv;                                       // inputs in the order (row, column, channel); not float
  const float* weight_float;                         // [out_channels/16][4*channels][16]; float only
  const float* bias;                                 // [out_channels]; float with batch norm
  const float *scale, *shift;                        // [out_channels]; float with layer norm
  const float *slope, *out_shift;                    // [out_channels]; not float
  const float* position;                             // [height/2*width/2][out_channels]
  const float* x;
  float* out;
};

// head: `head_features` (items are groups of 16 channels), then `head_logits` (groups of 16 classes).
struct HeadArgs {
  long tokens, channels, classes;
  const float *norm_scale, *norm_shift;  // [channels]; null if x is normalised already
  const float* weight;                   // [ceil(classes/16)][channels][16], or null:
  const uint16_t* half_weight;           // the same in half precision, all finite
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
  void (*mixer_values)(const MixerArgs&, long begin, long end);
  void (*mixer_conv_float)(const MixerArgs&, long begin, long end, void* scratch);
  void (*pooling)(const PoolingArgs&, long begin, long end, void* scratch);
  void (*mlp)(const MlpArgs&, long begin, long end, void* scratch);
  void (*mlp_general)(const MlpArgs&, long begin, long end, void* scratch);
  void (*attention_pool)(const AttentionArgs&, long begin, long end);
  void (*attention_project)(const AttentionArgs&, long begin, long end, void* scratch);
  void (*attention_project_general)(const AttentionArgs&, long begin, long end, void* scratch);
  void (*attention_heads)(const AttentionArgs&, long begin, long end, void* scratch);
  void (*attention_context)(const AttentionArgs&, long begin, long end);
  void (*attention_average)(const AttentionArgs&, long begin, long end);
  void (*attention_output)(const AttentionArgs&, long begin, long end, void* scratch);
  void (*pooled_keys)(const PooledArgs&, long begin, long end, void* scratch);
  void (*pooled_tiles)(const PooledArgs&, long begin, long end);
  void (*pooled_queries)(const PooledArgs&, long begin, long end, void* scratch);
  void (*downsample)(const DownsampleArgs&, long begin, long end, void* scratch);
  void (*downsample_general)(const DownsampleArgs&, long begin, long end, void* scratch);
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
  // The same of float multiplications, each with an addition: factor sink[0], summand sink[1], start sink[2].
  long (*float_peak)(long rounds, float* sink);
};

}  // namespace bhvit
