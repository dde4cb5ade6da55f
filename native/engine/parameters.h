// The parameters of an op in the layout of the kernels.

#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "format/memory.h"
#include "format/reader.h"
#include "kernels/kernels.h"
#include "kernels/scratch.h"

namespace bhvit {

// Where the parameters of a program's ops come from, and where copies of them go.
struct ParameterSource {
  const Model& model;
  bool borrowed;  // whether the bytes of the model outlive the program, which may then use them in place
  Arena& arena;
  const KernelTable& kernels;  // which the parameters are for
};

inline bool layer_norm(const Op& op) { return op.is("norm", "layer"); }
inline bool signs(const Op& op) { return op.is("activations", "binary"); }
// Whether products are of bits, and whether the fused kernels, which know bits and batch norm, will do.
inline bool binary(const Op& op) { return signs(op) && op.is("weights", "binary"); }
inline bool fused(const Op& op) { return binary(op) && !layer_norm(op); }

// Tensor names of a linear layer; `weight_scale` is only there with layer norm.
struct LinearNames {
  const char *weight, *threshold, *scale, *shift, *weight_scale;
};

// The parameters of one op. Those whose bytes are borrowed and are as kernels need them (bits, halves, and float32 that
// no factor is folded into, of whole vectors) are used where they lie; the others are copied into aligned memory.
class Parameters {
 public:
  Parameters(const Op& op, const ParameterSource& source) : op_(op), source_(source) {}

  const float* floats(const char* name) { return scaled(name, 1.0f); }
  // Kernels count differing bits from -K/2 up: a product is -2 times that, and the factor is put here.
  const float* scale2(const char* name) { return scaled(name, binary(op_) ? -2.0f : 1.0f); }
  const float* constant(long count, float value);
  template <class T>
  T* take(long count) {  // zeros
    return source_.arena.take<T>(static_cast<size_t>(count));
  }

  const uint16_t* half_precision(const char* name);  // null if the file holds another type
  const uint32_t* bits(const char* name);            // as they are in the file
  const uint32_t* weight_bits(const char* name);     // as the kernels read them
  uint32_t* mutable_bits(const char* name);
  // The same of bits in memory: the words themselves, or a copy.
  const uint32_t* expanded(const uint32_t* bits, long words);
  // Weights [tiles][inputs][16] as floats, whether the file holds bits or floats.
  const float* weight_floats(const char* name, long inputs);

  // `count` layers whose tensors lie one after the other.
  void linear(Linear* layers, long count, const LinearNames& names, long inputs, long outputs);

 private:
  const Tensor& tensor(const char* name) { return source_.model.tensors.at(op_.name + "." + name); }
  const float* scaled(const char* name, float factor);
  template <class T>
  const T* in_place(const Tensor& stored);  // or a copy, if its bytes are not borrowed or not aligned
  template <class T>
  T* copy(const Tensor& stored);

  const Op& op_;
  const ParameterSource& source_;
};

}  // namespace bhvit
