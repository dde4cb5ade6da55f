// The ops of a program: kinds, attributes, limits and tensor shapes. The mirror of src/bhvit/ops.py; a
// test compares the two through `schema_json`.

#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.h"

namespace bhvit {

// A file that breaks a rule of the format: one printable line that names the tensor or op.
struct FormatError : std::runtime_error {
  explicit FormatError(const std::string& message);
};

using Dims = std::map<std::string, int64_t>;

struct TensorRule {
  std::string name;
  bool bits;                       // uint32 words; otherwise float16 or float32
  std::vector<std::string> shape;  // sizes by name, or numbers
};

struct OpRule {
  std::string kind;
  std::vector<std::string> attributes;
  std::vector<TensorRule> tensors;
  Dims (*derive)(const Dims& attributes);  // throws FormatError on impossible attributes
};

struct Op {
  const OpRule* rule = nullptr;
  std::string name;
  Dims attributes;

  int64_t operator[](const char* attribute) const { return attributes.at(attribute); }
  // (H, W, C) of x after this op; (1, 1, classes) after the head.
  std::vector<int64_t> output() const;
  std::vector<int64_t> shape(const TensorRule& tensor, const Dims& sizes) const;
};

// The ops of a program's JSON list, checked one by one and as a chain. Throws FormatError.
std::vector<Op> read_program(const Json& list);

// The rules as JSON: {"limits": {...}, "ops": {kind: {"attributes": [...], "tensors": {name: [kind, shape]}}}}.
std::string schema_json();

}  // namespace bhvit
