// The ops of a program: kinds, attributes, options, limits and tensor shapes. The rules are generated from the Python
// schema, see generate.py.

#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "format/json.h"
#include "format/ops.gen.h"

namespace bhvit {

// A file that breaks a rule of the format: one printable line that names the tensor or op.
struct FormatError : std::runtime_error {
  explicit FormatError(const std::string& message);
};

// Throws FormatError with the message unless the condition holds.
void require(bool condition, const std::string& message);

struct Op;
using Dims = std::map<std::string, int64_t, std::less<>>;
using Size = int64_t (*)(const Dims& attributes);

constexpr int64_t kTileOutputs = 16;  // bits.LANES
constexpr int64_t tiles(int64_t channels) { return (channels + kTileOutputs - 1) / kTileOutputs; }

struct TensorRule {
  const char* name;
  std::span<const Size> shape;
  bool weights;                // (..., output tiles, inputs), stored as bits or as floats, by the option `weights`
  bool (*present)(const Op&);  // which ops have it; null: all
};

struct AttributeRule {
  std::string_view name;
  std::string_view otherwise;  // the attribute that it equals where a file leaves it out; empty: a file has it
};

// (H, W, C) of a value.
struct Grid {
  Size size[3];
};

struct OpRule {
  std::string_view kind;
  std::span<const AttributeRule> attributes;
  std::span<const std::string_view> options;
  std::span<const TensorRule> tensors;
  std::span<const Grid> inputs;           // of the values that the op reads; the stem reads the image alone
  void (*check)(const Dims& attributes);  // throws FormatError on impossible attributes
  Grid output;                            // of what it writes; (1, 1, classes) of logits, (H, W, classes) of pixels
};

struct OptionRule {
  std::string_view name;
  std::span<const std::string_view> values;  // the default first
};

struct Limit {
  std::string_view name;  // of an attribute
  int64_t most;
};

struct Op {
  const OpRule* rule = nullptr;
  std::string name;
  Dims attributes;
  std::map<std::string, std::string, std::less<>> options;  // all that its kind has
  std::vector<size_t> reads;                                // the numbers of the ops whose values it reads

  // All are below their limits, and so below 2^31.
  long operator[](const char* attribute) const { return static_cast<long>(attributes.find(attribute)->second); }
  std::vector<int64_t> output() const { return grid(rule->output); }
  std::vector<int64_t> grid(const Grid& sizes) const;
  // Whether it labels pixels, as the last op of a segmentation does.
  bool segments() const { return rule->kind == "segment"; }
  // Whether the op has an option with this value.
  bool is(const char* option, const char* value) const {
    const auto found = options.find(option);
    return found != options.end() && found->second == value;
  }
  bool has(const TensorRule& tensor) const { return !tensor.present || tensor.present(*this); }
  bool bits(const TensorRule& tensor) const;  // uint32 words; otherwise float16 or float32
  std::vector<int64_t> shape(const TensorRule& tensor) const;
};

std::span<const OpRule> rules();
std::span<const OptionRule> options();
std::span<const Limit> limits();

// The ops of a program's JSON list, checked one by one and as a graph. Throws FormatError.
std::vector<Op> read_program(const Json& list);

}  // namespace bhvit
