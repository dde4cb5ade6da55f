// The elementwise work of a training step, fused: what stands between matrix products in the models' layers.
//
// Tokens are rows of channels, (rows, channels), channels innermost; grids are (batch, height, width) tokens. All
// pointers are to T, contiguous; those said to be optional may be null. Sums of a channel are taken over kRows rows in
// T, then over these in order in double, so that no result depends on the number of threads.

#pragma once

#include <cstdint>

namespace bhvit::training {

// Rows that one task takes.
constexpr long kRows = 128;

struct Shape {
  long rows, channels;
  int threads;
};

struct Grid {
  long batch, height, width, channels;
  int threads;
};

// Batch normalisation: of each channel its mean, 1 / deviation, and learned scale and offset.
template <class T>
struct Norm {
  const T *mean, *inverse, *scale, *offset;
};

// What a batch norm does with a batch: its mean and 1 / deviation of each channel, and running ones, which move by
// `momentum` towards the batch's mean and unbiased variance.
template <class T>
struct Statistics {
  double epsilon, momentum;
  T *mean, *inverse, *running_mean, *running_variance;
};

// RPReLU(norm(h) + residual), and what is made of it.
template <class T>
struct Unit {
  const T *h, *residual;  // residual: (rows, width); channel c takes c % width of it
  long width;             // channels % width == 0, width % (channels / width) == 0
  Norm<T> norm;
  const T *shift_in, *slope, *shift_out;
  const T *out_scale, *out_shift;  // optional: LayerScale of the result
  const T* learnable_bias;         // optional: with it the result is signs and means instead
  bool binary;                     // false: x + learnable_bias takes the place of its sign
};

// Gradients that a unit gets and gives. One of (out) and (signs, means) is given.
template <class T>
struct UnitGradients {
  const T *out, *signs, *means;
  T *h, *residual;  // given back
  T *norm_scale, *norm_offset, *shift_in, *slope, *shift_out, *out_scale, *out_shift, *learnable_bias;
};

// Attention of `queries` to `keys` tokens in each of `groups` groups: q (groups, queries, heads * depth), k and v
// likewise, all of signs. With P the softmax of q k / sqrt(depth), and step and offset those of a head:
// levels = clamp(round(3 P / step + offset), 0, 3).
template <class T>
struct Attention {
  long groups, queries, keys, heads, depth;
  int threads;
  const T *q, *k, *v, *step, *offset;
};

template <class T>
struct Table {
  // Fills mean and inverse from x and moves the running ones. rows > 1.
  void (*statistics)(const Shape&, const T* x, const Statistics<T>&);
  // norm(x) into `out`.
  void (*normalise)(const Shape&, const T* x, const Norm<T>&, T* out);
  // Gradients of `normalise` for those of its result, `grad`; statistics are of x itself.
  void (*normalise_backward)(const Shape&, const T* x, const Norm<T>&, const T* grad, T* x_grad, T* scale, T* offset);
  // sign(x + learnable_bias) or x + learnable_bias.
  void (*signs)(const Shape&, const T* x, const T* learnable_bias, bool binary, T* out);
  // The bits of sign(x + learnable_bias): (rows, channels / 32), channel c being bit c % 32 of word c / 32.
  void (*pack_bits)(const Shape&, const T* x, const T* learnable_bias, uint32_t* out);
  // The signs of such bits as floats (rows, channels).
  void (*unpack_bits)(const Shape&, const uint32_t* bits, T* out);
  // Products of `rows` rows of bits with `outputs` rows of bits, each times scale[output], as floats (rows, outputs),
  // and their statistics. outputs % 16 == 0.
  void (*binary_linear)(const Shape&, const uint32_t* bits, const uint32_t* weights, const T* scale, long outputs,
                        const Statistics<T>&, T* out);
  // Rows of bits in columns: (rows / 32 rounded up, channels), row r of a channel being bit r % 32 of its word r / 32.
  void (*bit_columns)(const Shape&, const uint32_t* bits, uint32_t* out);
  // out (rows, channels) = a * scale * signs: a is (rows, inputs), or (inputs, rows) if `transposed`; scale, optional,
  // has a float an input; signs (inputs, channels) are in such columns. channels % 16 == 0. Null where not faster.
  void (*sign_products)(const Shape&, const float* a, bool transposed, long inputs, const float* scale,
                        const uint32_t* columns, float* out);
  // Binary weights of `rows` outputs from (rows, channels) latent ones: of the sign of each less its row's `centre`
  // (optional), and of the mean magnitude of the row.
  void (*binarise)(const Shape&, const T* latent, const T* centre, T* out);
  // The same as bits (rows, channels / 32) and magnitudes (rows); without `centre`, of weights that are binary already,
  // each row of one magnitude. channels % 32 == 0.
  void (*weight_bits)(const Shape&, const T* latent, const T* centre, uint32_t* bits, T* scale);
  // Gradients of latent weights: what comes in where the sign was taken of a number in [-1, 1], with `centre` less the
  // row's mean.
  void (*binarise_backward)(const Shape&, const T* latent, const T* centre, const T* grad, T* out);
  // Gradients of `signs`, with Bi-Real Net's derivative of the sign; that of x is added to x_grad if `add`.
  void (*signs_backward)(const Shape&, const T* x, const T* learnable_bias, bool binary, const T* grad, bool add,
                         T* x_grad, T* learnable_bias_grad);
  // out, or signs (rows, channels), as floats or as `bits`, and means over channels / width channels (rows, width).
  void (*unit)(const Shape&, const Unit<T>&, T* out, T* signs, uint32_t* bits, T* means);
  void (*unit_backward)(const Shape&, const Unit<T>&, const UnitGradients<T>&);
  // The sum over `count` of RPReLU(y + bias); `inputs` are what PReLU takes off: bias - shift_in.
  void (*branches)(const Shape&, int count, const T* const* y, const T* const* input, const T* const* slope,
                   const T* shift, T* out);
  // y_grad[d], of (rows, channels); sums of a channel for input, slope and, the same for all, shift.
  void (*branches_backward)(const Shape&, int count, const T* const* y, const T* const* input, const T* const* slope,
                            const T* grad, T* const* y_grad, T* const* input_grad, T* const* slope_grad, T* shift_grad);
  // 3x3 convolution in groups, zeros outside the grid. weights: (groups, 9, channels / groups in, same out).
  void (*conv)(const Grid&, int groups, int dilation, bool add, const T* x, const T* weights, T* out);
  // Gradient of its weights, in that layout.
  void (*conv_weights)(const Grid&, int groups, int dilation, const T* x, const T* grad, T* weights);
  // The convolution of signs x with weights that of an output differ in their signs alone. channels / groups % 16 == 0.
  void (*binary_conv)(const Grid&, int groups, int dilation, const T* x, const T* weights, T* out);
  // `conv` with weights that of an input differ in their signs alone, and `conv_weights` for signs x. Null where they
  // are not faster.
  void (*sign_conv)(const Grid&, int groups, int dilation, bool add, const float* x, const float* weights, float* out);
  void (*sign_conv_weights)(const Grid&, int groups, int dilation, const float* x, const float* grad, float* weights);
  // base + shift + the sum of nine taps (9, channels) at `offsets` (9, 2); cyclic, or zeros outside the grid.
  void (*cross)(const Grid&, const int* offsets, bool cyclic, const T* x, const T* taps, const T* shift, const T* base,
                T* out);
  void (*cross_backward)(const Grid&, const int* offsets, bool cyclic, const T* x, const T* taps, const T* grad,
                         T* x_grad, T* taps_grad, T* shift_grad);
  // Contexts, levels * step * v, as q lies. Levels pass gradients between their ends, not at them.
  void (*attention)(const Attention<T>&, T* out);
  void (*attention_backward)(const Attention<T>&, const T* grad, T* q_grad, T* k_grad, T* v_grad, T* step, T* offset);
};

// The engine's count of bits that differ, of the fastest instruction set here: counts[t][16 * tile + lane].
void count_differences(const uint32_t* bits, long rows, long words, const uint32_t* tiles, long count, int32_t* counts);

}  // namespace bhvit::training
