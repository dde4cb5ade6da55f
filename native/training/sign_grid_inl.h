// Gradients of grouped 3x3 convolutions of signs, by the tables of lookup_inl.h.

#pragma once

#include "training/grid_inl.h"
#include "training/products_inl.h"

namespace bhvit::training {
namespace {

#if defined(BHVIT_TABLES)

// Signs of weights (count, inputs, outputs) in columns: (count, inputs / 32 rounded up, outputs).
inline Buffer<uint32_t> weight_columns(const float* weights, long count, long inputs, long outputs) {
  const long words = (inputs + 31) / 32;
  Buffer<uint32_t> columns(count * words * outputs);
  for (long i = 0; i < count; i++)
    sign_columns(inputs, weights + i * inputs * outputs, outputs, outputs, columns.data() + i * words * outputs);
  return columns;
}

// Tables of an image's tokens, each channel scaled, and after them those of a token outside:
// tables[token][inputs / 4][entry].
inline void image_tables(const Grid& grid, const Signs& signs, const float* image, const float* scale, long inputs,
                         float* scaled, float* tables) {
  const long tokens = grid.height * grid.width, each = inputs * kAcross;
  for (long t = 0; t < tokens; t++) {
    const float* from = image + t * grid.channels;
    BHVIT_SIMD_LOOP
    for (long k = 0; k < inputs; k++) scaled[k] = from[k] * scale[k];
    float* to = tables + t * each;
    for (long k = 0; k < inputs; k += 4) Lookup::store(to + k * kAcross, make_table<1>(signs, scaled + k));
  }
  std::fill(tables + tokens * each, tables + (tokens + 1) * each, 0.0f);
}

// `vectors` vectors of outputs of each token of an image. tables_at[token][tap]: where its tables are; columns: (9,
// words, outputs), of as many inputs as outputs.
template <int vectors>
void sign_conv_image(const Grid& grid, const int64_t* tables_at, const float* tables, const uint32_t* columns,
                     long outputs, bool add, float* out) {
  const long tokens = grid.height * grid.width;
  for (long t = 0; t < tokens; t += kTileRows) {
    const auto tables_of = [=](int tap, long row) {
      return Stored{tables + tables_at[std::min(t + row, tokens - 1) * 9 + tap]};
    };
    look_up<kTileRows, vectors>(9, tables_of, columns, outputs, outputs, [=](long row, int v, Lookup::Vector sum) {
      if (t + row >= tokens) return;
      float* to = out + (t + row) * grid.channels + v * Lookup::kLanes;
      Lookup::store(to, add ? Lookup::add(Lookup::load(to), sum) : sum);
    });
  }
}

// weights (groups, 9, inputs, outputs) of an input differ in their signs alone.
inline void sign_conv(const Grid& grid, int groups, int dilation, bool add, const float* x, const float* weights,
                      float* out) {
  const Buffer<int32_t> near = square(grid, dilation);
  const long inputs = grid.channels / groups, tokens = grid.height * grid.width, words = (inputs + 31) / 32;
  const Buffer<uint32_t> columns = weight_columns(weights, groups * 9L, inputs, inputs);
  Buffer<float> scales(grid.channels);
  for (long c = 0; c < grid.channels; c++)
    scales[c] = std::abs(weights[(c / inputs * 9 * inputs + c % inputs) * inputs]);
  Buffer<int64_t> tables_at(tokens * 9);
  for (long i = 0; i < tokens * 9; i++) tables_at[i] = (near[i] < 0 ? tokens : near[i]) * inputs * kAcross;
  constexpr int lanes = Lookup::kLanes, most = Lookup::kVectors;
  const Signs signs;
#pragma omp parallel num_threads(grid.threads)
  {
    Buffer<float> tables((tokens + 1) * inputs * kAcross), scaled(inputs);
#pragma omp for schedule(static)
    for (long task = 0; task < grid.batch * groups; task++) {
      const long b = task / groups, group = task % groups, first = b * tokens * grid.channels + group * inputs;
      image_tables(grid, signs, x + first, scales.data() + group * inputs, inputs, scaled.data(), tables.data());
      const uint32_t* of = columns.data() + group * 9 * words * inputs;
      const auto outputs = [&]<int vectors>(long o) {
        sign_conv_image<vectors>(grid, tables_at.data(), tables.data(), of + o, inputs, add, out + first + o);
      };
      long o = 0;
      for (; o + most * lanes <= inputs; o += most * lanes) outputs.template operator()<most>(o);
      for (; o + 2 * lanes <= inputs; o += 2 * lanes) outputs.template operator()<2>(o);
      for (; o < inputs; o += lanes) outputs.template operator()<1>(o);
    }
  }
}

// Whether what a tap brings to a token lies inside the grid, a bit a token: (9, tokens / 32 rounded up).
inline Buffer<uint32_t> inside(const Grid& grid, int dilation) {
  const Buffer<int32_t> near = square(grid, dilation);
  const long tokens = grid.height * grid.width, words = (tokens + 31) / 32;
  Buffer<uint32_t> bits(9 * words);
  for (long tap = 0; tap < 9; tap++)
    for (long t = 0; t < tokens; t++) bits[tap * words + t / 32] |= uint32_t(near[t * 9 + tap] >= 0) << t % 32;
  return bits;
}

// Signs of what a tap, `by` tokens away, brings to the tokens of an image, in columns `stride` words apart, from the
// image's own columns (words, channels). Of tokens that are not `inside` the grid the bits are 0.
inline void moved_columns(long by, long words, const uint32_t* inside, const uint32_t* own, long channels, long stride,
                          uint32_t* out) {
  for (long w = 0; w < words; w++) {
    const long low = 32 * w + by, from = low >= 0 ? low / 32 : -((31 - low) / 32);  // rounded down
    const uint64_t shift = static_cast<uint64_t>(low - 32 * from);
    const uint32_t first = from >= 0 && from < words ? ~0u : 0, second = from + 1 >= 0 && from + 1 < words ? ~0u : 0;
    const uint32_t *a = own + (first ? from : 0) * channels, *b = own + (second ? from + 1 : 0) * channels;
    const uint32_t there = inside[w];
    uint32_t* to = out + w * stride;
    BHVIT_SIMD_LOOP
    for (long c = 0; c < channels; c++)
      to[c] = static_cast<uint32_t>((uint64_t(b[c] & second) << 32 | (a[c] & first)) >> shift) & there;
  }
}

// What tokens whose tap lies outside the grid gave to its sums although it is not there: the bits 0 were counted as -1.
inline void take_back(const Grid& grid, int dilation, int tap, const float* grad, long outputs, float* outside) {
  const long down = (tap / 3 - 1) * dilation, right = (tap % 3 - 1) * dilation;
  std::fill(outside, outside + outputs, 0.0f);
  for (long row = 0; row < grid.height; row++) {
    const bool there = row + down >= 0 && row + down < grid.height;
    const long left = there ? std::min(std::max(0L, -right), grid.width) : grid.width;
    const long last = there ? std::max(0L, std::min(grid.width, grid.width - right)) : grid.width;
    const auto add = [&](long column) {
      const float* g = grad + (row * grid.width + column) * grid.channels;
      BHVIT_SIMD_LOOP
      for (long o = 0; o < outputs; o++) outside[o] += g[o];
    };
    for (long column = 0; column < left; column++) add(column);
    for (long column = std::max(left, last); column < grid.width; column++) add(column);
  }
}

inline void sign_conv_weights(const Grid& grid, int groups, int dilation, const float* x, const float* grad,
                              float* weights) {
  const long inputs = grid.channels / groups, tokens = grid.height * grid.width, words = (tokens + 31) / 32;
  const long wide = 9 * inputs, count = wide * inputs;
  const Buffer<uint32_t> there = inside(grid, dilation);
  const Signs signs;
  Buffer<float> sums(grid.batch * groups * count);
#pragma omp parallel num_threads(grid.threads)
  {
    Buffer<uint32_t> own(words * inputs), columns(words * wide);
    Buffer<float> outside(inputs);
#pragma omp for schedule(static)
    for (long task = 0; task < grid.batch * groups; task++) {
      const long first = task / groups * tokens * grid.channels + task % groups * inputs;
      float* to = sums.data() + task * count;  // (outputs, 9, inputs)
      sign_columns(tokens, x + first, grid.channels, inputs, own.data());
      for (int tap = 0; tap < 9; tap++)
        moved_columns(((tap / 3 - 1) * grid.width + tap % 3 - 1) * dilation, words, there.data() + tap * words,
                      own.data(), inputs, wide, columns.data() + tap * inputs);
      const Products p{tokens, wide, 1, grid.channels, grad + first, nullptr, columns.data()};
      for (long o = 0; o < inputs; o += kTaskRows)
        multiply_rows(p, signs, o, std::min<long>(kTaskRows, inputs - o), to + o * wide);
      for (int tap = 0; tap < 9; tap++) {
        take_back(grid, dilation, tap, grad + first, inputs, outside.data());
        for (long o = 0; o < inputs; o++)
          for (long k = 0; k < inputs; k++) to[o * wide + tap * inputs + k] += outside[o];
      }
    }
  }
  const Buffer<double> totals = total(sums, grid.batch, groups * count);
  for (long group = 0; group < groups; group++)
    for (long o = 0; o < inputs; o++)
      for (long i = 0; i < wide; i++)
        weights[group * count + i * inputs + o] = static_cast<float>(totals[group * count + o * wide + i]);
}

#endif

}  // namespace
}  // namespace bhvit::training
