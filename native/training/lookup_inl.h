// Sums of floats with signs, by tables.
//
// Of four floats there are sixteen sums with signs. They are computed once, and each output looks its own up by four
// bits: a permutation and an addition in the place of four multiply-adds.

#pragma once

#include "training/sums_inl.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#define BHVIT_TABLES 1

namespace bhvit::training {
namespace {

// A table in a register; and words of bits, one an output, whose lowest four are the next to be looked up.
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
  static constexpr int kLanes = 8, kEntries = 8;  // those with the fourth float added; the others are their negatives

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

constexpr int kAcross = Lookup::kEntries / 4;  // table entries an input
constexpr int kTileRows = 4;                   // rows that are looked up side by side

// Signs of the four floats of a table, by entry.
struct Signs {
  alignas(64) float of[4][Lookup::kEntries];
  Signs() {
    for (int k = 0; k < 4; k++)
      for (int entry = 0; entry < Lookup::kEntries; entry++)
        of[k][entry] = 1 << k >= Lookup::kEntries || entry >> k & 1 ? 1.0f : -1.0f;
  }
};

// The table of four floats, `along` apart.
template <long along>
inline Lookup::Vector make_table(const Signs& signs, const float* from) {
  Lookup::Vector sums = Lookup::multiply(Lookup::all(from[0]), Lookup::load(signs.of[0]));
  for (int i = 1; i < 4; i++) sums = Lookup::times(from[i * along], Lookup::load(signs.of[i]), sums);
  return sums;
}

// Where look_up finds a row's tables: stored one after the other,
struct Stored {
  const float* tables;
  Lookup::Vector operator()(long input) const { return Lookup::load(tables + input * kAcross); }
};
// or made when they are needed, from floats `along` apart.
template <long along>
struct Made {
  const Signs* signs;
  const float* from;
  Lookup::Vector operator()(long input) const { return make_table<along>(*signs, from + input * along); }
};

// For each row and vector of outputs, give(row, vector, sum over `parts` times `inputs` inputs), inputs % 4 == 0.
// tables_of(part, row)(input) is the table of a row for four inputs of a part. Word w of a column, `stride` words after
// the one before, has the bits of inputs 32 w to 32 w + 31; a part's words follow those of the part before.
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

}  // namespace
}  // namespace bhvit::training

#endif
