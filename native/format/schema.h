// The ops of a program: kinds, attributes, options, limits and tensor shapes. The mirror of src/bhvit/op_rules.py;
// a test compares the two through `schema_json`.

#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "format/json.h"

namespace bhvit {

// A file that breaks a rule of the format: one printable line that names the tensor or op.
struct FormatError : std::runtime_error {
  explicit FormatError(const std::string& message);
};

using Dims = std::map<std::string, int64_t>;

struct TensorRule {
  std::string name;
  std::vector<std::string> shape;  // sizes by name, or numbers
  bool weights;      // (..., output tiles, inputs), stored as bits or as floats, by the option `weights`
  std::string when;  // which ops have it: "option=value" or "attribute>1", or several with spaces between
};

struct OpRule {
  std::string kind;
  std::vector<std::string> attributes, options;
  std::vector<TensorRule> tensors;
  Dims (*derive)(const Dims& attributes);  // throws FormatError on impossible attributes
};

struct Op {
  const OpRule* rule = nullptr;
  std::string name;
  Dims attributes;
  std::map<std::string, std::string> options;  // all that its kind has

  // All are below their limits, and so below 2^31.
  long operator[](const char* attribute) const { return static_cast<long>(attributes.at(attribute)); }
  // (H, W, C) of x after this op; (1, 1, classes) after the head.
  std::vector<int64_t> output() const;
  // Whether the op has an option with this value.
  bool is(const char* option, const char* value) const {
    const auto found = options.find(option);
    return found != options.end() && found->second == value;
  }
  bool has(const TensorRule& tensor) const;
  bool bits(const TensorRule& tensor) const;  // uint32 words; otherwise float16 or float32
  std::vector<int64_t> shape(const TensorRule& tensor, const Dims& sizes) const;
};

const std::vector<OpRule>& rules();
const Dims& limits();                                                // the largest value of each attribute
const std::map<std::string, std::vector<std::string>>& options();   // values of each, the default first

// The ops of a program's JSON list, checked one by one and as a chain. Throws FormatError.
std::vector<Op> read_program(const Json& list);

// The rules as JSON: {"limits": {...}, "options": {...}, "ops": {kind: {"attributes": [...], "options": [...],
// "tensors": {name: [shape, weights, when]}}}, ...}.
std::string schema_json();

}  // namespace bhvit
