// What the steps of all ops are made from: their parameters in the layout of the kernels, and their memory.

#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "engine/steps.h"

namespace bhvit {

constexpr long kTokenGrain = 8;  // tokens that a thread takes at least

inline long divide_up(long a, long b) { return (a + b - 1) / b; }
inline long round_up(long a, long b) { return divide_up(a, b) * b; }
inline size_t block(long bytes) { return static_cast<size_t>(round_up(bytes, static_cast<long>(kAlignment))); }

// Bytes of scratch of a Linear (see kernels.h).
inline size_t linear_bytes(long inputs, long outputs) {
  return block(kMaxBlock * inputs / 8) + block(kMaxBlock * inputs * 4) + block(kMaxBlock * outputs * 4);
}

// Hands out parts of the shared memory.
class Shared {
 public:
  explicit Shared(const Plan& plan) : next_(plan.shared) {}
  template <class T>
  T* take(long count) {
    T* part = reinterpret_cast<T*>(next_);
    next_ += block(count * static_cast<long>(sizeof(T)));
    return part;
  }

 private:
  char* next_;
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

// The parameters of one op. Those whose bytes last and are as kernels need them (bits, halves, and float32 that no factor
// is folded into, of whole vectors) are used where they lie; the others are copied into aligned memory.
class Parameters {
 public:
  Parameters(const Op& op, Plan& plan) : op_(op), plan_(plan) {}

  const float* floats(const char* name) { return scaled(name, 1.0f); }
  // Kernels count differing bits from -K/2 up: a product is -2 times that, and the factor is put here.
  const float* scale2(const char* name) { return scaled(name, binary(op_) ? -2.0f : 1.0f); }
  const float* constant(long count, float value);

  const uint16_t* half_precision(const char* name);  // null if the file has it in another type
  const uint32_t* bits(const char* name);
  uint32_t* mutable_bits(const char* name);
  // Weights [tiles][inputs][16] as numbers, whether the file holds bits or numbers.
  const float* numbers(const char* name, long inputs);

  // `count` layers whose tensors lie one after the other.
  void linear(Linear* layers, long count, const LinearNames& names, long inputs, long outputs);

 private:
  const Tensor& tensor(const char* name) { return plan_.model->tensors.at(op_.name + "." + name); }
  const float* scaled(const char* name, float factor);
  template <class T>
  const T* in_place(const Tensor& stored);  // or a copy, if its bytes do not last or are not aligned
  template <class T>
  T* copy(const Tensor& stored);

  const Op& op_;
  Plan& plan_;
};

void run_norm(const Machine& machine, const NormArgs& args, long tokens);
NormArgs norm_args(const Op& op, Parameters& parameters, const float* x, float* n);

// One per kind of op: the step, and what it needs.
std::unique_ptr<Step> make_mixer(const Op& op, Plan& plan);
std::unique_ptr<Step> make_pooling(const Op& op, Plan& plan);
std::unique_ptr<Step> make_mlp(const Op& op, Plan& plan);
std::unique_ptr<Step> make_attention(const Op& op, Plan& plan);
std::unique_ptr<Step> make_pooled_attention(const Op& op, Plan& plan);
Needs mixer_needs(const Op& op);
Needs pooling_needs(const Op& op);
Needs mlp_needs(const Op& op);
Needs attention_needs(const Op& op);
Needs pooled_attention_needs(const Op& op);

}  // namespace bhvit
