// Opening a .bhv file: everything in it is checked before it is used. src/bhvit/format/file.py states the format.

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "format/description.h"
#include "format/schema.h"

namespace bhvit {

constexpr uint64_t kMaxBytes = uint64_t{1} << 31;  // of a file

struct Tensor {
  enum class Type { u32, f32, f16, i8 };
  Type type;
  std::vector<int64_t> shape;
  std::string_view bytes;  // a part of the file; need not be aligned
  std::string_view scale;  // of i8, which stands for whole * scale: float32, shape (..., 1, C) for (..., N, C)

  int64_t size() const;  // values
  // Whether kernels may use the bytes where they lie: whole aligned vectors.
  bool usable() const;
  void copy_floats(float* values) const;  // of a float tensor
};

struct Model {
  std::vector<Op> ops;
  std::map<std::string, Tensor> tensors;  // by "op name.tensor name"; as their ops need them
  std::vector<std::string> class_names;   // one a class
  Preprocess preprocess;
  Calibration calibration;
  std::string_view header;  // the file's bytes before the tensors
};

// The model in the bytes of a whole file, which must outlive it. Throws FormatError.
Model read_model(std::string_view file);

// CRC-32 (polynomial 0xedb88320) of `bytes`, continuing from `crc`.
uint32_t crc32(std::string_view bytes, uint32_t crc = 0);

}  // namespace bhvit
