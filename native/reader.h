// Opening a .bhv file: everything in it is checked before it is used. The format is stated in
// src/bhvit/format.py.

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "schema.h"

namespace bhvit {

struct Tensor {
  enum class Type { u32, f32, f16 };
  Type type;
  std::vector<int64_t> shape;
  std::string_view bytes;  // a part of the file; need not be aligned

  int64_t size() const;                   // values
  std::vector<float> floats() const;      // of a float tensor
  std::vector<uint32_t> words() const;    // of a bit tensor
};

struct Model {
  std::vector<Op> ops;
  std::map<std::string, Tensor> tensors;  // by "op name.tensor name"; as their ops need them
};

// The model in the bytes of a whole file, which must outlive it. Throws FormatError.
Model read_model(std::string_view file);

// CRC-32 (polynomial 0xedb88320) of `bytes`, continuing from `crc`.
uint32_t crc32(std::string_view bytes, uint32_t crc = 0);

}  // namespace bhvit
