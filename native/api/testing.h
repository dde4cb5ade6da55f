// Integers of single kernels, for tests that compare them with NumPy exactly, and the peak of the machine.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bhvit {

// Activations (tokens, words) and weight tiles (tiles, words, 16), both words for `length` signs each,
// zero past them -> dot products (tokens, 16*tiles).
std::vector<int32_t> binary_linear(const std::string& isa, const uint32_t* activations, long tokens, long words,
                                   const uint32_t* weight, long tiles, long length);

// Bits (tokens, words) AND weight tiles (tiles, words, 16) -> common set bits (tokens, 16*tiles).
std::vector<int32_t> common_bits(const std::string& isa, const uint32_t* activations, long tokens, long words,
                                 const uint32_t* weight, long tiles);

// Binary multiply-accumulates a second of XOR, population count and add on registers, on one thread.
double peak_rate(const std::string& isa, double seconds);

// Float multiplications with additions a second on registers, each rounded, on one thread.
double float_peak_rate(const std::string& isa, double seconds);

}  // namespace bhvit
