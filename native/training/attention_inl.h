// Attention of signs with decomposed quantisation, between the projections: scores, softmax, levels and contexts.

#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "training/grid_inl.h"
#include "training/norm_inl.h"

namespace bhvit::training {
namespace {

// c (rows, columns) = a times b (inputs, columns), `block` rows and `vectors` vectors of columns of it. a's floats are
// `across` apart from row to row and `along` from input to input.
template <int block, int vectors, class T>
void multiply_block(const T* a, long across, long along, long inputs, const T* b, long columns, T* c) {
  using V = typename Vector<T>::type;
  V sums[block][vectors] = {};
  for (long k = 0; k < inputs; k++) {
    V row[vectors];
    for (int v = 0; v < vectors; v++) row[v] = load(b + k * columns + v * Vector<T>::kLanes);
    for (int i = 0; i < block; i++) {
      const T value = a[i * across + k * along];
      for (int v = 0; v < vectors; v++) sums[i][v] += value * row[v];
    }
  }
  for (int i = 0; i < block; i++)
    for (int v = 0; v < vectors; v++) *reinterpret_cast<V*>(c + i * columns + v * Vector<T>::kLanes) = sums[i][v];
}

// All of it; columns % (2 * lanes) == 0.
template <class T>
void multiply(const T* a, long across, long along, long rows, long inputs, const T* b, long columns, T* c) {
  constexpr long lanes = Vector<T>::kLanes;
  for (long o = 0; o < columns; o += 2 * lanes) {
    long row = 0;
    for (; row + 4 <= rows; row += 4)
      multiply_block<4, 2>(a + row * across, across, along, inputs, b + o, columns, c + row * columns + o);
    for (; row < rows; row++)
      multiply_block<1, 2>(a + row * across, across, along, inputs, b + o, columns, c + row * columns + o);
  }
}

// One head of one group of tokens: rows of `wide` floats, those after its `depth` channels 0.
template <class T>
struct Head {
  long tokens, depth, wide;
  Buffer<T> numbers;

  Head(long tokens, long depth, long wide) : tokens(tokens), depth(depth), wide(wide), numbers(tokens * wide) {}

  void take(const T* from, long channels) {
    for (long t = 0; t < tokens; t++) {
      T* to = numbers.data() + t * wide;
      BHVIT_SIMD_LOOP
      for (long c = 0; c < depth; c++) to[c] = from[t * channels + c];
    }
  }

  // Rows like its own, each times `scale`.
  void give(const T* from, T scale, long channels, T* to) const {
    for (long t = 0; t < tokens; t++) {
      BHVIT_SIMD_LOOP
      for (long c = 0; c < depth; c++) to[t * channels + c] = from[t * wide + c] * scale;
    }
  }
};

// What a thread needs for one head of one group after the other.
template <class T>
struct HeadWork {
  static constexpr int kLevels = 3;
  static long padded(long count) { return (count + 31) / 32 * 32; }

  const Attention<T>& a;
  long wide, keys, words;  // wide, keys: padded depth and number of keys; words: of a token's bits
  Head<T> q, k, v;
  Buffer<uint32_t> q_bits, k_bits;
  Buffer<int32_t> differing;
  Buffer<T> still, powers;          // powers: e^(-i / sqrt(depth)) of differences i of scores
  Buffer<T> probabilities, levels;  // (queries, keys)

  explicit HeadWork(const Attention<T>& a)
      : a(a),
        wide(padded(a.depth)),
        keys(padded(a.keys)),
        words(wide / 32),
        q(a.queries, a.depth, wide),
        k(a.keys, a.depth, wide),
        v(a.keys, a.depth, wide),
        q_bits(a.queries * words),
        k_bits(words * a.keys),
        differing(a.keys),
        still(wide),
        powers(2 * a.depth + 1),
        probabilities(a.queries * keys),
        levels(a.queries * keys) {
    for (long i = 0; i <= 2 * a.depth; i++)
      powers[i] = std::exp(-static_cast<T>(i) / std::sqrt(static_cast<T>(a.depth)));
  }

  long channels() const { return a.heads * a.depth; }

  // Probabilities and levels of a head.
  void attend(long group, long head) {
    const long query = (group * a.queries * a.heads + head) * a.depth;
    const long key = (group * a.keys * a.heads + head) * a.depth;
    q.take(a.q + query, channels());
    k.take(a.k + key, channels());
    v.take(a.v + key, channels());
    pack_signs(q.numbers.data(), still.data(), a.queries, wide, q_bits.data(), words, 1);
    pack_signs(k.numbers.data(), still.data(), a.keys, wide, k_bits.data(), 1, a.keys);
    const T step = a.step[head], offset = a.offset[head];
    for (long i = 0; i < a.queries; i++) {
      int32_t least = static_cast<int32_t>(a.depth), *count = differing.data();
      std::fill(count, count + a.keys, 0);
      for (long w = 0; w < words; w++) {
        const uint32_t word = q_bits[i * words + w], *of = k_bits.data() + w * a.keys;
        for (long j = 0; j < a.keys; j++) count[j] += std::popcount(word ^ of[j]);
      }
      for (long j = 0; j < a.keys; j++) least = std::min(least, count[j]);
      T *p = probabilities.data() + i * keys, *level = levels.data() + i * keys, sum = 0;
      for (long j = 0; j < a.keys; j++) sum += p[j] = powers[2 * (count[j] - least)];
      BHVIT_SIMD_LOOP
      for (long j = 0; j < a.keys; j++) {
        p[j] /= sum;
        level[j] = std::min(std::max(std::nearbyint(T(kLevels) * p[j] / step + offset), T(0)), T(kLevels));
      }
    }
  }

 private:
  // Bits of `rows` rows: word w of row r goes to out[r * across + w * along].
  static void pack_signs(const T* x, const T* learnable_bias, long rows, long wide, uint32_t* out, long across,
                         long along) {
    for (long r = 0; r < rows; r++)
      for (long w = 0; w < wide / 32; w++)
        out[r * across + w * along] = sign_word(x + r * wide + 32 * w, learnable_bias);
  }
};

template <class T>
void attention(const Attention<T>& a, T* out) {
#pragma omp parallel num_threads(a.threads)
  {
    HeadWork<T> work(a);
    Buffer<T> contexts(a.queries * work.wide);
#pragma omp for schedule(static)
    for (long task = 0; task < a.groups * a.heads; task++) {
      const long group = task / a.heads, head = task % a.heads;
      work.attend(group, head);
      multiply(work.levels.data(), work.keys, 1, a.queries, a.keys, work.v.numbers.data(), work.wide, contexts.data());
      T* to = out + (group * a.queries * a.heads + head) * a.depth;
      work.q.give(contexts.data(), a.step[head], work.channels(), to);
    }
  }
}

// Gradients of q, k and v, and of step and offset before they are scaled.
template <class T>
void attention_backward(const Attention<T>& a, const T* grad, T* q_grad, T* k_grad, T* v_grad, T* step, T* offset) {
  const long tasks = a.groups * a.heads;
  Buffer<T> partial(2 * tasks);
#pragma omp parallel num_threads(a.threads)
  {
    HeadWork<T> work(a);
    const long wide = work.wide, keys = work.keys, channels = work.channels();
    Head<T> given(a.queries, a.depth, wide);
    Buffer<T> v_across(a.depth * keys), scores(a.queries * keys), result(std::max(a.queries, a.keys) * wide);
#pragma omp for schedule(static)
    for (long task = 0; task < tasks; task++) {
      const long group = task / a.heads, head = task % a.heads;
      const long query = (group * a.queries * a.heads + head) * a.depth;
      const long key = (group * a.keys * a.heads + head) * a.depth;
      work.attend(group, head);
      given.take(grad + query, channels);
      for (long j = 0; j < a.keys; j++)
        for (long c = 0; c < a.depth; c++) v_across[c * keys + j] = work.v.numbers[j * wide + c];
      // Of levels times step.
      multiply(given.numbers.data(), wide, 1, a.queries, a.depth, v_across.data(), keys, scores.data());

      const T scale = a.step[head], root = std::sqrt(static_cast<T>(a.depth));
      T of_step = 0, of_offset = 0;
      for (long i = 0; i < a.queries; i++) {
        T* s = scores.data() + i * keys;
        const T *p = work.probabilities.data() + i * keys, *level = work.levels.data() + i * keys;
        T total = 0, steps = 0, offsets = 0;
#pragma omp simd reduction(+ : total, steps, offsets)
        for (long j = 0; j < a.keys; j++) {
          const T between = level[j] > 0 && level[j] < T(work.kLevels) ? s[j] : T(0);
          steps += s[j] * level[j] - between * (T(work.kLevels) * p[j] / scale);
          offsets += between * scale;
          s[j] = between * T(work.kLevels);
          total += s[j] * p[j];
        }
        of_step += steps;
        of_offset += offsets;
        BHVIT_SIMD_LOOP
        for (long j = 0; j < a.keys; j++) s[j] = p[j] * (s[j] - total) / root;
      }
      partial[2 * task] = of_step;
      partial[2 * task + 1] = of_offset;

      multiply(scores.data(), keys, 1, a.queries, a.keys, work.k.numbers.data(), wide, result.data());
      work.q.give(result.data(), T(1), channels, q_grad + query);
      multiply(scores.data(), 1, keys, a.keys, a.queries, work.q.numbers.data(), wide, result.data());
      work.k.give(result.data(), T(1), channels, k_grad + key);
      multiply(work.levels.data(), 1, keys, a.keys, a.queries, given.numbers.data(), wide, result.data());
      work.v.give(result.data(), scale, channels, v_grad + key);
    }
  }
  const Buffer<double> totals = total(partial, a.groups, 2 * a.heads);
  for (long head = 0; head < a.heads; head++) {
    step[head] = static_cast<T>(totals[2 * head]);
    offset[head] = static_cast<T>(totals[2 * head + 1]);
  }
}

}  // namespace
}  // namespace bhvit::training
