#include "engine/parameters.h"

#include <cstring>

namespace bhvit {

const float* Parameters::constant(long count, float value) {
  float* values = take<float>(count);
  std::fill_n(values, count, value);
  return values;
}

const uint16_t* Parameters::half_precision(const char* name) {
  const Tensor& stored = tensor(name);
  return stored.type == Tensor::Type::f16 ? in_place<uint16_t>(stored) : nullptr;
}

const uint32_t* Parameters::bits(const char* name) { return in_place<uint32_t>(tensor(name)); }

const uint32_t* Parameters::weight_bits(const char* name) {
  if (!source_.kernels.expand_weights) return bits(name);
  const Tensor& stored = tensor(name);
  return expanded(reinterpret_cast<const uint32_t*>(stored.bytes.data()), static_cast<long>(stored.size()));
}

const uint32_t* Parameters::expanded(const uint32_t* bits, long words) {
  if (!source_.kernels.expand_weights) return bits;
  uint32_t* out = take<uint32_t>(words * kWeightWords);
  source_.kernels.expand_weights(bits, words / kLanes, out);
  return out;
}

uint32_t* Parameters::mutable_bits(const char* name) { return copy<uint32_t>(tensor(name)); }

template <class T>
const T* Parameters::in_place(const Tensor& stored) {
  return source_.borrowed && stored.usable() ? reinterpret_cast<const T*>(stored.bytes.data()) : copy<T>(stored);
}

template <class T>
T* Parameters::copy(const Tensor& stored) {
  T* values = source_.arena.take<T>(stored.bytes.size() / sizeof(T));
  std::memcpy(values, stored.bytes.data(), stored.bytes.size());
  return values;
}

const float* Parameters::scaled(const char* name, float factor) {
  const Tensor& stored = tensor(name);
  if (factor == 1.0f && source_.borrowed && stored.type == Tensor::Type::f32 && stored.usable())
    return reinterpret_cast<const float*>(stored.bytes.data());
  float* copy = take<float>(round_up(stored.size(), kLanes));
  stored.copy_floats(copy);
  if (factor != 1.0f) std::transform(copy, copy + stored.size(), copy, [factor](float v) { return v * factor; });
  return copy;
}

const float* Parameters::weight_floats(const char* name, long inputs) {
  if (!op_.is("weights", "binary")) return floats(name);
  const Tensor& stored = tensor(name);
  const long words_each = divide_up(inputs, kWordBits) * kLanes, tiles = stored.size() / words_each;
  float* values = take<float>(tiles * inputs * kLanes);
  for (long tile = 0; tile < tiles; tile++) {
    for (long k = 0; k < inputs; k++) {
      for (long l = 0; l < kLanes; l++) {
        uint32_t word;
        std::memcpy(&word, stored.bytes.data() + 4 * (tile * words_each + k / kWordBits * kLanes + l), 4);
        values[(tile * inputs + k) * kLanes + l] = word >> k % kWordBits & 1 ? 1.0f : -1.0f;
      }
    }
  }
  return values;
}

void Parameters::linear(Linear* layers, long count, const LinearNames& names, long inputs, long outputs) {
  const bool layer = layer_norm(op_);
  const uint32_t* words = binary(op_) ? weight_bits(names.weight) : nullptr;
  const float* weight = binary(op_) ? nullptr : weight_floats(names.weight, inputs);
  const float* threshold = floats(names.threshold);
  const float* weight_scale = layer ? scale2(names.weight_scale) : nullptr;
  const float* scale = layer ? floats(names.scale) : scale2(names.scale);
  const float* shift = floats(names.shift);
  for (long i = 0; i < count; i++) {
    layers[i] = {inputs,
                 outputs,
                 threshold + i * inputs,
                 words ? weight_tile(words, i * outputs, inputs / kWordBits) : nullptr,
                 weight ? weight + i * outputs * inputs : nullptr,
                 signs(op_),
                 weight_scale ? weight_scale + i * outputs : nullptr,
                 scale + i * outputs,
                 shift + i * outputs};
  }
}

}  // namespace bhvit
