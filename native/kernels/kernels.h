// What one instruction set offers: the kernels of every op, and integers for tests.

#pragma once

#include "kernels/ops.gen.h"

namespace bhvit {

struct KernelTable {
  const char* name;
  OpKernels ops;
  // Weights of so many words a lane, [word][16], in the form that kernels read, kWeightWords times as long; null if they
  // read them as they are.
  void (*expand_weights)(const uint32_t* weights, long words, uint32_t* out);
  void (*norm)(const NormArgs&, long begin, long end);

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
