// Products of numbers with signs, by tables: half of the arithmetic of a backward pass.
//
// Of four numbers there are sixteen sums with signs. They are computed once for a row, and each output looks its own up by
// four bits: a permutation and an addition in the place of four multiply-adds. Bits come in columns: word w of an
// output holds its signs of inputs 32 w to 32 w + 31.

#pragma once

#include <cmath>
#include <cstdint>

#include "sums_inl.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#define BHVIT_TABLES 1
#endif

namespace bhvit::training {
namespace {

// Bits of the signs of x + move in columns, of rows begin to end; rows of x are `stride` numbers apart. begin % 32 == 0.
template <class T>
void fill_columns(long begin, long end, const T* x, long stride, const T* move, long channels, uint32_t* out) {
  for (long row = begin; row < end; row++) {
    const T* from = x + row * stride;
    uint32_t* to = out + row / 32 * channels;
    const uint32_t bit = 1u << row % 32;
    if (row % 32 == 0) std::fill(to, to + channels, 0u);
    BHVIT_SIMD_LOOP
    for (long c = 0; c < channels; c++) to[c] |= from[c] + move[c] >= 0 ? bit : 0;
  }
}

// (rows / 32 rounded up, channels); move: optional.
template <class T>
void sign_columns(const Shape& shape, const T* x, const T* move, uint32_t* out) {
  const Buffer<T> still(move ? 0 : shape.channels);
  const T* by = move ? move : still.data();
  for_rows(shape, [&](long begin, long end) {
    fill_columns(begin, end, x, shape.channels, by, shape.channels, out);
  });
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

#if defined(__AVX512F__)
struct Lookup {
  using Vector = __m512;
  using Words = __m512i;
  using Index = __m512i;
  static constexpr int kLanes = 16, kEntries = 16;  // an entry for each of the sums
  static constexpr int kVectors = 4;                // of outputs, side by side: what registers have room for

  static Words words(const uint32_t* from) { return _mm512_loadu_si512(from); }
  static Words next(Words words) { return _mm512_srli_epi32(words, 4); }
  static Index index(Words words) { return words; }
  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Vector sum) { _mm512_storeu_ps(to, sum); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector all(float a) { return _mm512_set1_ps(a); }
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector look(Index index, Vector table) { return _mm512_permutexvar_ps(index, table); }
  static Vector times(float a, Vector b, Vector sum) { return _mm512_fmadd_ps(all(a), b, sum); }
};
#else
struct Lookup {
  using Vector = __m256;
  using Words = __m256i;
  struct Index {
    __m256i entry;
    Vector sign;
  };
  static constexpr int kVectors = 2;
  static constexpr int kLanes = 8, kEntries = 8;  // those with the fourth number added; the others are their negatives

  static Words words(const uint32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static Words next(Words words) { return _mm256_srli_epi32(words, 4); }
  static Index index(Words words) {
    const __m256i added = _mm256_srai_epi32(_mm256_slli_epi32(words, 28), 31), all = _mm256_set1_epi32(-1);
    const __m256i negative = _mm256_slli_epi32(_mm256_andnot_si256(added, all), 31);
    return {_mm256_xor_si256(words, _mm256_andnot_si256(added, all)), _mm256_castsi256_ps(negative)};
  }
  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Vector sum) { _mm256_storeu_ps(to, sum); }
  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector all(float a) { return _mm256_set1_ps(a); }
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector look(Index index, Vector table) {
    return _mm256_xor_ps(_mm256_permutevar8x32_ps(table, index.entry), index.sign);
  }
  static Vector times(float a, Vector b, Vector sum) { return _mm256_fmadd_ps(all(a), b, sum); }
};
#endif

constexpr int kTileRows = 4;       // rows that are looked up side by side
constexpr int kTaskRows = 64;      // rows that are taken from memory at a time, by cache lines where they are columns
constexpr int kTableInputs = 64;   // inputs whose tables are made at a time, so that they stay in the first cache
constexpr int kAcross = Lookup::kEntries / 4;  // numbers of tables an input

// Signs of the four numbers of a table, by entry.
struct Signs {
  alignas(64) float of[4][Lookup::kEntries];
  Signs() {
    for (int k = 0; k < 4; k++)
      for (int entry = 0; entry < Lookup::kEntries; entry++)
        of[k][entry] = 1 << k >= Lookup::kEntries || entry >> k & 1 ? 1.0f : -1.0f;
  }
};

// The table of four numbers, `along` apart.
template <long along>
inline Lookup::Vector make_table(const Signs& signs, const float* from) {
  Lookup::Vector sums = Lookup::multiply(Lookup::all(from[0]), Lookup::load(signs.of[0]));
  for (int i = 1; i < 4; i++) sums = Lookup::times(from[i * along], Lookup::load(signs.of[i]), sums);
  return sums;
}

// Where look_up finds a row's tables: stored one after the other, or made as they are needed, from numbers `along` apart.
struct Stored {
  const float* tables;
  Lookup::Vector operator()(long input) const { return Lookup::load(tables + input * kAcross); }
};
template <long along>
struct Made {
  const Signs* signs;
  const float* from;
  Lookup::Vector operator()(long input) const { return make_table<along>(*signs, from + input * along); }
};

// For each row and vector of outputs, give(row, vector, sum over `parts` times `inputs` inputs). tables_of(part, row)(input)
// is the table of a row for four inputs of a part; columns lie `stride` words apart, a part's after those of the part before.
template <int rows, int vectors, class TablesOf, class Give>
inline void look_up(int parts, const TablesOf& tables_of, const uint32_t* columns, long inputs, long stride,
                    const Give& give) {
  Lookup::Vector sums[rows][vectors];
  for (auto& row : sums)
    for (auto& sum : row) sum = Lookup::zero();
  for (int part = 0; part < parts; part++) {
    decltype(tables_of(0, 0)) tables[rows];
    for (int row = 0; row < rows; row++) tables[row] = tables_of(part, row);
    for (long first = 0; first < inputs; first += 32, columns += stride) {
      Lookup::Words words[vectors];
      for (int v = 0; v < vectors; v++) words[v] = Lookup::words(columns + v * Lookup::kLanes);
      const long last = std::min(inputs, first + 32);
      for (long k = first; k < last; k += 4) {
        Lookup::Index index[vectors];
        for (int v = 0; v < vectors; v++) {
          index[v] = Lookup::index(words[v]);
          words[v] = Lookup::next(words[v]);
        }
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
          const Lookup::Vector table = tables[row](k);
#pragma GCC unroll 4
          for (int v = 0; v < vectors; v++) sums[row][v] = Lookup::add(sums[row][v], Lookup::look(index[v], table));
        }
      }
    }
  }
  for (int row = 0; row < rows; row++)
    for (int v = 0; v < vectors; v++) give(row, v, sums[row][v]);
}

// To `count` rows of out, `outputs` apart: products with `vectors` vectors of columns, added unless they are the `first`.
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

// Sums of a (rows, inputs) with signs (inputs, outputs) in columns. a's numbers are `across` apart from row to row and
// `along` from input to input, and one of both is 1; scale, optional, has a number an input.
struct Products {
  long inputs, outputs, across, along;
  const float *a, *scale;
  const uint32_t* columns;
};

// Inputs begin to end of `count` rows from row `first` on, scaled: block[row][input], or block[input][row] where the rows of
// a lie so. The rest of the block is 0. What the next block will take is asked for: such strides no processor foresees.
inline void take_block(const Products& p, long first, long count, long begin, long end, float* block) {
  std::fill(block, block + kTaskRows * kTableInputs, 0.0f);
  const float* from = p.a + first * p.across + begin * p.along;
  if (p.along == 1) {
    for (long row = 0; row < count; row++, from += p.across) {
      float* to = block + row * kTableInputs;
      BHVIT_SIMD_LOOP
      for (long k = 0; k < end - begin; k++) to[k] = p.scale ? from[k] * p.scale[begin + k] : from[k];
      for (long k = end; k < std::min(p.inputs, end + kTableInputs); k += 16) __builtin_prefetch(from + k - begin, 0, 2);
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

// Products of kTileRows rows of a block with the columns of `inputs` inputs, of which `count` rows are wanted. Few outputs
// do not pay for storing tables.
template <long across, long along>
void multiply_tile(const Products& p, const Signs& signs, const float* block, const uint32_t* columns, long inputs,
                   long count, bool first, float* out) {
  constexpr int lanes = Lookup::kLanes, together = Lookup::kVectors * lanes;
  const auto all_outputs = [&](const auto* tables) {
    long o = 0;
    for (; o + together <= p.outputs; o += together)
      add_products<Lookup::kVectors>(tables, columns + o, inputs, p.outputs, count, first, out + o);
    for (; o < p.outputs; o += lanes)
      add_products<1>(tables, columns + o, inputs, p.outputs, count, first, out + o);
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
      if (p.along == 1) {
        multiply_tile<kTableInputs, 1>(p, signs, block + tile * kTableInputs, columns, inputs, together, begin == 0, to);
      } else {
        multiply_tile<1, kTaskRows>(p, signs, block + tile, columns, inputs, together, begin == 0, to);
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
