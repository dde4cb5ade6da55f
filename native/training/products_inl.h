// Products of floats with signs: half of the arithmetic of a backward pass.

#pragma once

#include <cmath>
#include <cstdint>

#include "training/lookup_inl.h"

namespace bhvit::training {
namespace {

// Bits of the signs of x (rows, channels) in columns, (rows / 32 rounded up, channels). Rows of x lie `stride` apart.
inline void sign_columns(long rows, const float* x, long stride, long channels, uint32_t* out) {
  for (long row = 0; row < rows; row++) {
    const float* from = x + row * stride;
    uint32_t* to = out + row / 32 * channels;
    const uint32_t bit = 1u << row % 32;
    if (row % 32 == 0) std::fill(to, to + channels, 0u);
    BHVIT_SIMD_LOOP
    for (long c = 0; c < channels; c++) to[c] |= from[c] >= 0 ? bit : 0;
  }
}

// The same from bits in rows, (rows, channels / 32).
inline void bit_columns(const Shape& shape, const uint32_t* bits, uint32_t* out) {
  const long words = shape.channels / 32;
  for_rows(shape, [&](long begin, long end) {
    for (long row = begin; row < end; row++) {
      for (long w = 0; w < words; w++) {
        const uint32_t word = bits[row * words + w];
        uint32_t* to = out + (row / 32 * words + w) * 32;
        if (row % 32 == 0) std::fill(to, to + 32, 0u);
        BHVIT_SIMD_LOOP
        for (uint32_t c = 0; c < 32; c++) to[c] |= (word >> c & 1) << row % 32;
      }
    }
  });
}

#if defined(BHVIT_TABLES)

constexpr int kTaskRows = 64;     // rows that are taken from memory at a time: whole cache lines where they are columns
constexpr int kTableInputs = 64;  // inputs whose tables are made at a time, so that they stay in the first cache

// To `count` rows of out, `outputs` apart: products with vectors of columns, added unless they are the `first`.
template <int vectors, class Table>
void add_products(const Table* tables, const uint32_t* columns, long inputs, long outputs, long count, bool first,
                  float* out) {
  const auto tables_of = [=](int, int row) { return tables[row]; };
  look_up<kTileRows, vectors>(1, tables_of, columns, inputs, outputs, [=](int row, int v, Lookup::Vector sum) {
    if (row >= count) return;
    float* to = out + row * outputs + v * Lookup::kLanes;
    Lookup::store(to, first ? sum : Lookup::add(Lookup::load(to), sum));
  });
}

// Sums of a (rows, inputs) with signs (inputs, outputs) in columns. a's floats are `across` apart from row to row and
// `along` from input to input, and one of both is 1; scale, optional, has a float an input.
struct Products {
  long inputs, outputs, across, along;
  const float *a, *scale;
  const uint32_t* columns;
};

// Inputs begin to end of `count` rows from row `first` on, scaled: block[row][input], or block[input][row] where a lies
// so. The rest of the block is 0. What the next block will take is asked for: no processor foresees such strides.
inline void take_block(const Products& p, long first, long count, long begin, long end, float* block) {
  std::fill(block, block + kTaskRows * kTableInputs, 0.0f);
  const float* from = p.a + first * p.across + begin * p.along;
  if (p.along == 1) {
    for (long row = 0; row < count; row++, from += p.across) {
      float* to = block + row * kTableInputs;
      BHVIT_SIMD_LOOP
      for (long k = 0; k < end - begin; k++) to[k] = p.scale ? from[k] * p.scale[begin + k] : from[k];
      const long next = std::min(p.inputs, end + kTableInputs);
      for (long k = end; k < next; k += 16) __builtin_prefetch(from + k - begin, 0, 2);
    }
  } else {
    for (long k = begin; k < end; k++, from += p.along, block += kTaskRows) {
      const float scale = p.scale ? p.scale[k] : 1.0f;
      BHVIT_SIMD_LOOP
      for (long row = 0; row < count; row++) block[row] = from[row] * scale;
      if (k + kTableInputs >= p.inputs) continue;
      for (long row = 0; row < count; row += 16) __builtin_prefetch(from + row + kTableInputs * p.along, 0, 2);
    }
  }
}

// Products of kTileRows rows of a block, of which `count` are wanted, with columns of `inputs` inputs. Few outputs do
// not pay for storing tables.
template <long across, long along>
void multiply_tile(const Products& p, const Signs& signs, const float* block, const uint32_t* columns, long inputs,
                   long count, bool first, float* out) {
  constexpr int lanes = Lookup::kLanes, together = Lookup::kVectors * lanes;
  const auto all_outputs = [&](const auto* tables) {
    long o = 0;
    for (; o + together <= p.outputs; o += together)
      add_products<Lookup::kVectors>(tables, columns + o, inputs, p.outputs, count, first, out + o);
    for (; o < p.outputs; o += lanes) add_products<1>(tables, columns + o, inputs, p.outputs, count, first, out + o);
  };
  if (p.outputs <= together) {
    Made<along> tables[kTileRows];
    for (long row = 0; row < kTileRows; row++) tables[row] = {&signs, block + row * across};
    return all_outputs(tables);
  }
  alignas(64) float storage[kTileRows][kTableInputs * kAcross];
  Stored tables[kTileRows];
  for (long row = 0; row < kTileRows; row++) {
    tables[row] = {storage[row]};
    for (long k = 0; k < inputs; k += 4)
      Lookup::store(storage[row] + k * kAcross, make_table<along>(signs, block + row * across + k * along));
  }
  all_outputs(tables);
}

// out (count, outputs) for `count` rows from row `first` on, count <= kTaskRows.
inline void multiply_rows(const Products& p, const Signs& signs, long first, long count, float* out) {
  alignas(64) float block[kTaskRows * kTableInputs];
  for (long begin = 0; begin < p.inputs; begin += kTableInputs) {
    const long end = std::min(p.inputs, begin + kTableInputs), inputs = (end - begin + 3) / 4 * 4;
    take_block(p, first, count, begin, end, block);
    const uint32_t* columns = p.columns + begin / 32 * p.outputs;
    for (long tile = 0; tile < count; tile += kTileRows) {
      const long together = std::min<long>(kTileRows, count - tile);
      float* to = out + tile * p.outputs;
      const bool is_first = begin == 0;
      if (p.along == 1) {
        multiply_tile<kTableInputs, 1>(p, signs, block + tile * kTableInputs, columns, inputs, together, is_first, to);
      } else {
        multiply_tile<1, kTaskRows>(p, signs, block + tile, columns, inputs, together, is_first, to);
      }
    }
  }
}

inline void sign_products(const Shape& shape, const float* a, bool transposed, long inputs, const float* scale,
                          const uint32_t* columns, float* out) {
  const Products p{inputs, shape.channels, transposed ? 1 : inputs, transposed ? shape.rows : 1, a, scale, columns};
  const Signs signs;
  long task = kTaskRows;
  while (task > kTileRows && shape.rows < 2 * task * shape.threads) task /= 2;
#pragma omp parallel for num_threads(shape.threads) schedule(static)
  for (long first = 0; first < shape.rows; first += task)
    multiply_rows(p, signs, first, std::min(task, shape.rows - first), out + first * p.outputs);
}

#endif

}  // namespace
}  // namespace bhvit::training
