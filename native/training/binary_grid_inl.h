// Grouped 3x3 convolutions of signs with binary weights, by counting bits.

#pragma once

#include <bit>

#include "training/grid_inl.h"

namespace bhvit::training {
namespace {

// Sixteen channels of a token, or of a tap of an output, as bits.
constexpr long kPart = 16;
typedef uint16_t __attribute__((may_alias)) Part;  // two of them are read as a word

template <class T>
inline uint16_t part_of(const T* x, long stride) {
  uint32_t bits = 0;
  for (int k = 0; k < kPart; k++) bits |= uint32_t(x[k * stride] >= 0) << k;
  return static_cast<uint16_t>(bits);
}

// Weights (groups, 9, inputs, outputs) as the engine multiplies them.
template <class T>
struct ConvWeights {
  long inputs, parts, words;  // parts: of a tap; words: of all taps of an output
  Buffer<uint32_t> storage;
  uint32_t* tiles;          // [group][outputs / 16][word][16 outputs]
  Buffer<T> scales;         // [group][output]
  Buffer<int32_t> outside;  // [group][tap][output]: half of what a tap gives whose bits are all 0

  ConvWeights(const T* weights, long groups, long inputs)
      : inputs(inputs),
        parts(inputs / kPart),
        words((9 * parts + 1) / 2),
        storage(groups * inputs * words + 16),
        tiles(storage.data()),
        scales(groups * inputs),
        outside(groups * 9 * inputs) {
    while (reinterpret_cast<uintptr_t>(tiles) % 64) tiles++;
    for (long c = 0; c < groups * inputs; c++) {
      const long group = c / inputs, o = c % inputs;
      const T* of = weights + group * 9 * inputs * inputs + o;
      scales[c] = std::abs(*of);
      for (long i = 0; i < 9 * parts; i++) {
        const uint32_t part = part_of(of + i * kPart * inputs, inputs);
        tiles[(c / 16 * words + i / 2) * 16 + c % 16] |= part << i % 2 * 16;
        outside[(group * 9 + i / parts) * inputs + o] += static_cast<int32_t>(kPart / 2 - std::popcount(part));
      }
    }
  }
};

// The parts of a group in the nine taps of `count` tokens, to[token][2 * words]. Those of a token lie in `own`,
// `stride` after those of the one before; `zeros` are those of tokens outside.
template <class Parts>
void gather_taps(const int32_t* near, long count, const uint16_t* own, long stride, const uint16_t* zeros, Parts parts,
                 long words, Part* to) {
  for (long t = 0; t < count; t++, to += 2 * words) {
    for (long tap = 0; tap < 9; tap++) {
      const int32_t at = near[t * 9 + tap];
      const uint16_t* from = at < 0 ? zeros : own + at * stride;
      for (long i = 0; i < parts; i++) to[tap * parts + i] = from[i];
    }
  }
}

// x is of signs; weights of an output differ in their signs alone.
template <class T>
void binary_conv(const Grid& grid, int groups, int dilation, const T* x, const T* weights, T* out) {
  const Buffer<int32_t> near = square(grid, dilation);
  const long inputs = grid.channels / groups, tokens = grid.height * grid.width, width = grid.width;
  const ConvWeights<T> w(weights, groups, inputs);
  const long stride = groups * w.parts;
  Buffer<uint16_t> own(grid.batch * tokens * stride), zeros(w.parts);
  for_rows({grid.batch * tokens, grid.channels, grid.threads}, [&](long begin, long end) {
    for (long i = begin * stride; i < end * stride; i++) own[i] = part_of(x + i * kPart, 1);
  });
#pragma omp parallel num_threads(grid.threads)
  {
    Buffer<uint32_t> taps(width * w.words);
    Buffer<int32_t> counts(width * inputs);
#pragma omp for schedule(static)
    for (long row = 0; row < grid.batch * grid.height; row++) {
      const int32_t* around = near.data() + row % grid.height * width * 9;
      const uint16_t* image = own.data() + row / grid.height * tokens * stride;
      for (long group = 0; group < groups; group++) {
        const auto gather = [&](auto parts) {
          gather_taps(around, width, image + group * parts, stride, zeros.data(), parts, w.words,
                      reinterpret_cast<Part*>(taps.data()));
        };
        // Copies of a known length are no calls.
        if (w.parts == 1) {
          gather(std::integral_constant<long, 1>());
        } else if (w.parts == 2) {
          gather(std::integral_constant<long, 2>());
        } else {
          gather(w.parts);
        }
        count_differences(taps.data(), width, w.words, w.tiles + group * inputs * w.words, inputs / 16, counts.data());
        const T* scale = w.scales.data() + group * inputs;
        for (long t = 0; t < width; t++) {
          int32_t* count = counts.data() + t * inputs;
          T* to = out + (row * width + t) * grid.channels + group * inputs;
          for (long tap = 0; tap < 9; tap++) {
            if (around[t * 9 + tap] >= 0) continue;
            const int32_t* outside = w.outside.data() + (group * 9 + tap) * inputs;
            BHVIT_SIMD_LOOP
            for (long o = 0; o < inputs; o++) count[o] += outside[o];
          }
          const int32_t all = static_cast<int32_t>(9 * inputs);
          BHVIT_SIMD_LOOP
          for (long o = 0; o < inputs; o++) to[o] = static_cast<T>(all - 2 * count[o]) * scale[o];
        }
      }
    }
  }
}

}  // namespace
}  // namespace bhvit::training
