// What looks at neighbours: grouped 3x3 convolutions and the cross of nine taps.

#pragma once

#include <cstdint>

#include "training/sums_inl.h"

namespace bhvit::training {
namespace {

// For each token of one image and each of the nine (row, column) `offsets`, the token there; -1 outside the grid,
// unless the grid is cyclic. `sign` -1 looks the other way.
inline Buffer<int32_t> neighbours(const Grid& grid, const int* offsets, int sign, bool cyclic) {
  Buffer<int32_t> found(grid.height * grid.width * 9);
  const auto inside = [&](long at, long edge) { return cyclic ? ((at % edge) + edge) % edge : at; };
  for (long row = 0, k = 0; row < grid.height; row++) {
    for (long column = 0; column < grid.width; column++) {
      for (int tap = 0; tap < 9; tap++, k++) {
        const long r = inside(row + sign * offsets[2 * tap], grid.height);
        const long c = inside(column + sign * offsets[2 * tap + 1], grid.width);
        const bool there = r >= 0 && r < grid.height && c >= 0 && c < grid.width;
        found[k] = there ? static_cast<int32_t>(r * grid.width + c) : -1;
      }
    }
  }
  return found;
}

inline Buffer<int32_t> square(const Grid& grid, int dilation) {
  int offsets[18];
  for (int tap = 0; tap < 9; tap++) {
    offsets[2 * tap] = (tap / 3 - 1) * dilation;
    offsets[2 * tap + 1] = (tap % 3 - 1) * dilation;
  }
  return neighbours(grid, offsets, 1, false);
}

#if defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Vector {
  static constexpr int kLanes = kVectorBytes / sizeof(T);
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};

template <class T>
inline typename Vector<T>::type load(const T* from) {
  return *reinterpret_cast<const typename Vector<T>::type*>(from);
}

// `tokens` outputs from token `first` of an image on, `vectors` vectors of them from channel `out` on.
template <int tokens, int vectors, class T>
void conv_block(const T* image, const int32_t* near, const T* weights, long channels, long inputs, long in, long out,
                long out_in_group, const T* zeros, bool add, T* result) {
  using V = typename Vector<T>::type;
  V sums[tokens][vectors] = {};
  for (int tap = 0; tap < 9; tap++) {
    const T* from[tokens];
    for (int i = 0; i < tokens; i++) {
      const int32_t at = near[i * 9 + tap];
      from[i] = at < 0 ? zeros : image + at * channels + in;
    }
    const T* w = weights + tap * inputs * inputs + out_in_group;
    for (long k = 0; k < inputs; k++, w += inputs) {
      V row[vectors];
      for (int v = 0; v < vectors; v++) row[v] = load(w + v * Vector<T>::kLanes);
      for (int i = 0; i < tokens; i++) {
        const T value = from[i][k];
        for (int v = 0; v < vectors; v++) sums[i][v] += value * row[v];
      }
    }
  }
  for (int i = 0; i < tokens; i++) {
    for (int v = 0; v < vectors; v++) {
      auto* to = reinterpret_cast<V*>(result + i * channels + out + v * Vector<T>::kLanes);
      *to = add ? *to + sums[i][v] : sums[i][v];
    }
  }
}

template <int vectors, class T>
void conv_rows(const Grid& grid, long group, long inputs, const int32_t* near, const T* image, const T* weights,
               const T* zeros, bool add, T* result) {
  const long tokens = grid.height * grid.width, channels = grid.channels, in = group * inputs;
  for (long o = 0; o < inputs; o += vectors * Vector<T>::kLanes) {
    long t = 0;
    const auto block = [&]<int count>() {
      conv_block<count, vectors>(image, near + t * 9, weights, channels, inputs, in, in + o, o, zeros, add,
                                 result + t * channels);
      t += count;
    };
    while (t + 6 <= tokens) block.template operator()<6>();
    while (t < tokens) block.template operator()<1>();
  }
}

template <class T>
void conv(const Grid& grid, int groups, int dilation, bool add, const T* x, const T* weights, T* out) {
  const Buffer<int32_t> near = square(grid, dilation);
  const long inputs = grid.channels / groups, image = grid.height * grid.width * grid.channels;
  const Buffer<T> zeros(inputs);
#pragma omp parallel for num_threads(grid.threads) schedule(static)
  for (long task = 0; task < grid.batch * groups; task++) {
    const long b = task / groups, group = task % groups;
    const T* w = weights + group * 9 * inputs * inputs;
    if (inputs % (2 * Vector<T>::kLanes) == 0) {
      conv_rows<2>(grid, group, inputs, near.data(), x + b * image, w, zeros.data(), add, out + b * image);
    } else {
      conv_rows<1>(grid, group, inputs, near.data(), x + b * image, w, zeros.data(), add, out + b * image);
    }
  }
}

// Tokens of neighbouring rows: `rows` times `tokens` of them, `stride` floats from row to row.
struct Patch {
  long rows, tokens, stride;
};

// Adds to sums[inputs][count vectors] of one tap: `count` inputs, over a patch.
template <int count, int vectors, class T>
void conv_weights_block(const T* x, const T* grad, const Patch& patch, long channels, T* sums, long stride) {
  using V = typename Vector<T>::type;
  const auto sum = [=](int k, int v) { return reinterpret_cast<V*>(sums + k * stride + v * Vector<T>::kLanes); };
  V block[count][vectors];
  for (int k = 0; k < count; k++)
    for (int v = 0; v < vectors; v++) block[k][v] = *sum(k, v);
  for (long r = 0; r < patch.rows; r++) {
    const T *from = x + r * patch.stride, *g = grad + r * patch.stride;
    for (long t = 0; t < patch.tokens; t++, from += channels, g += channels) {
      V row[vectors];
      for (int v = 0; v < vectors; v++) row[v] = load(g + v * Vector<T>::kLanes);
      for (int k = 0; k < count; k++)
        for (int v = 0; v < vectors; v++) block[k][v] += from[k] * row[v];
    }
  }
  for (int k = 0; k < count; k++)
    for (int v = 0; v < vectors; v++) *sum(k, v) = block[k][v];
}

// Of one group and image, about so many tokens at a time that what all taps and channels read stays in the first cache.
constexpr long kPatchTokens = 64;

template <class T>
void conv_weights_image(const Grid& grid, int dilation, long inputs, const T* x, const T* grad, T* sums) {
  constexpr long lanes = Vector<T>::kLanes;
  const long channels = grid.channels, width = grid.width, together = std::max(1L, kPatchTokens / width);
  for (long row = 0; row < grid.height; row += together) {
    for (long tap = 0; tap < 9; tap++) {
      const long down = (tap / 3 - 1) * dilation, right = (tap % 3 - 1) * dilation;
      const long top = std::max(row, -down), left = std::max(0L, -right);
      const Patch patch{std::min({row + together, grid.height, grid.height - down}) - top,
                        std::min(width, width - right) - left, width * channels};
      if (patch.rows <= 0 || patch.tokens <= 0) continue;
      const T* from = x + ((top + down) * width + left + right) * channels;
      const T* g = grad + (top * width + left) * channels;
      for (long k = 0; k < inputs; k += 4) {
        T* to = sums + (tap * inputs + k) * inputs;
        long o = 0;
        for (; o + 2 * lanes <= inputs; o += 2 * lanes)
          conv_weights_block<4, 2>(from + k, g + o, patch, channels, to + o, inputs);
        for (; o < inputs; o += lanes) conv_weights_block<4, 1>(from + k, g + o, patch, channels, to + o, inputs);
      }
    }
  }
}

template <class T>
void conv_weights(const Grid& grid, int groups, int dilation, const T* x, const T* grad, T* weights) {
  const long inputs = grid.channels / groups, image = grid.height * grid.width * grid.channels;
  const long count = 9 * inputs * inputs;
  Buffer<T> sums(grid.batch * groups * count);
#pragma omp parallel for num_threads(grid.threads) schedule(static)
  for (long task = 0; task < grid.batch * groups; task++) {
    const long first = task / groups * image + task % groups * inputs;
    conv_weights_image(grid, dilation, inputs, x + first, grad + first, sums.data() + task * count);
  }
  const Buffer<double> totals = total(sums, grid.batch, groups * count);
  for (long i = 0; i < groups * count; i++) weights[i] = static_cast<T>(totals[i]);
}

template <class T>
void cross(const Grid& grid, const int* offsets, bool cyclic, const T* x, const T* taps, const T* shift, const T* base,
           T* out) {
  const Buffer<int32_t> near = neighbours(grid, offsets, 1, cyclic);
  const long tokens = grid.height * grid.width, channels = grid.channels;
  const Buffer<T> zeros(channels);
  for_rows({grid.batch * tokens, channels, grid.threads}, [&](long begin, long end) {
    for (long row = begin; row < end; row++) {
      const long t = row % tokens;
      const T *image = x + (row - t) * channels, *from = base + row * channels;
      T* to = out + row * channels;
      const T* p[9];
      for (int k = 0; k < 9; k++) p[k] = near[t * 9 + k] < 0 ? zeros.data() : image + near[t * 9 + k] * channels;
      BHVIT_SIMD_LOOP
      for (long c = 0; c < channels; c++) {
        T sum = from[c] + shift[c];
        for (int k = 0; k < 9; k++) sum += p[k][c] * taps[k * channels + c];
        to[c] = sum;
      }
    }
  });
}

template <class T>
void cross_backward(const Grid& grid, const int* offsets, bool cyclic, const T* x, const T* taps, const T* grad,
                    T* x_grad, T* taps_grad, T* shift_grad) {
  const Buffer<int32_t> near = neighbours(grid, offsets, 1, cyclic), back = neighbours(grid, offsets, -1, cyclic);
  const long tokens = grid.height * grid.width, channels = grid.channels;
  const Buffer<T> zeros(channels);
  const Shape shape{grid.batch * tokens, channels, grid.threads};
  const Buffer<double> totals = sum_rows<10, T>(shape, [&](long begin, long end, T* sums) {
    for (long row = begin; row < end; row++) {
      const long t = row % tokens;
      const T *image = x + (row - t) * channels, *grads = grad + (row - t) * channels, *own = grad + row * channels;
      T* to = x_grad + row * channels;
      const T *p[9], *g[9];
      for (int k = 0; k < 9; k++) {
        p[k] = near[t * 9 + k] < 0 ? zeros.data() : image + near[t * 9 + k] * channels;
        g[k] = back[t * 9 + k] < 0 ? zeros.data() : grads + back[t * 9 + k] * channels;
      }
      BHVIT_SIMD_LOOP
      for (long c = 0; c < channels; c++) {
        T sum = 0;
        for (int k = 0; k < 9; k++) {
          sum += g[k][c] * taps[k * channels + c];
          sums[k * channels + c] += p[k][c] * own[c];
        }
        sums[9 * channels + c] += own[c];
        to[c] = sum;
      }
    }
  });
  for (long i = 0; i < 9 * channels; i++) taps_grad[i] = static_cast<T>(totals[i]);
  store(totals, 9, channels, shift_grad);
}

}  // namespace
}  // namespace bhvit::training
