// Types that kernels share, with the rules for their pointers and integers.
//
// The arithmetic is stated in src/bhvit/format/program.py; here is only how it is cut into pieces. Every kernel
// works on a half-open range of independent items, so that threads can share one op, and gives the same
// bits whatever the range, the instruction set and the number of threads.
//
// Each file of ops/ has the arguments of an op's kernels, the layouts of their scratch (which the engine runs to count
// its bytes) and, for files that are compiled for an instruction set, the kernels.
//
// Rules for all pointers: tensors, grids and scratch start on 64 bytes; rows of grids do too, because
// channels are multiples of 32. Kernels allocate nothing, throw nothing and include no library code, so
// that no function compiled for one instruction set can be linked into code for another.
//
// Integers: activations are XORed with weights and the set bits counted, so an accumulator of K inputs
// holds -K/2 .. K/2 when it starts at -K/2. K is at most 9 * 8192 (convolutions), 4 * 8192
// (downsampling) or 65536 (second layer of an MLP): far inside int32. All K are even, since channels are
// multiples of 32 and those of a convolution's group of 16. The product is acc = -2 * accumulator; the
// factor goes into the scale (`scale2` = -2 * scale, exact), so that a product costs no arithmetic after
// the counting. Accumulators convert to float exactly (below 2^24).
//
// Functions lie in unnamed namespaces: others could be compiled for one instruction set and linked into code that runs
// on another.

#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bhvit {

constexpr long kLanes = 16;     // outputs of a weight tile: bits.LANES
constexpr long kWordBits = 32;  // bits.WORD
constexpr long kDilations = 3;  // spec.DILATIONS = 1, 3, 5
constexpr long kBorder = 5;     // the largest of them: zeros around a grid of bits
constexpr long kBorderClasses = 16;
constexpr long kTaps = 9;         // program.TAPS
constexpr long kProjections = 3;  // q, k, v
constexpr long kMaxBlock = 8;     // tokens that any kernel takes at a time, at most

// A linear layer and the norm after it, `linear` in format/program.py.
struct Linear {
  long inputs, outputs;
  const float* threshold;      // [inputs]
  const uint32_t* bits;        // [outputs/16][inputs/32][16], if activations and weights are both signs; else null
  const float* weight;         // [outputs/16][inputs][16], if not
  bool signs;                  // whether activations are signs
  const float* weight_scale;   // [outputs], with layer norm; null with batch norm
  const float *scale, *shift;  // [outputs]
  // Of products of bits, the first of weight_scale and scale holds the factor -2 of `scale2` above.
};

// n = norm(x): items are tokens.
struct NormArgs {
  long channels;
  bool layer;
  const float *scale, *shift;  // [channels]
  const float* x;
  float* n;
};

// Batch norm of what an op leaves in x, done by it for the op that follows: n = x*scale + shift. n is null if nobody asks.
struct NextNorm {
  const float *scale, *shift;  // [channels]
  float* n;                    // [height*width][channels]
};

}  // namespace bhvit
