#include "format/schema.h"

#include <algorithm>
#include <set>
#include <sstream>

namespace bhvit {
namespace {

constexpr size_t kMaxOps = 1024;
constexpr int64_t kMaxGridFloats = int64_t{1} << 26;
constexpr int64_t kLanes = 16;

void require(bool condition, const std::string& message) {
  if (!condition) throw FormatError(message);
}

Op read_op(const Json& fields) {
  const Json* name = fields.find("name");
  require(fields.is(Json::Kind::object) && name && name->is(Json::Kind::string), "an op is not an object with a name");
  Op op;
  op.name = name->string;
  const std::string where = "op " + op.name + ": ";
  const Json* kind = fields.find("op");
  require(kind && kind->is(Json::Kind::string), where + "it has no kind");
  for (const OpRule& rule : rules()) {
    if (rule.kind == kind->string) op.rule = &rule;
  }
  require(op.rule, where + "unknown kind '" + kind->string + "'; a newer bhvit may know it");
  size_t given = op.rule->attributes.size() + 2;
  for (const std::string& key : op.rule->options) {
    const std::vector<std::string>& values = options().at(key);
    const Json* value = fields.find(key);
    op.options[key] = values.front();
    if (!value) continue;
    const bool known = value->is(Json::Kind::string) && value->string != values.front() &&
                       std::find(values.begin(), values.end(), value->string) != values.end();
    require(known, where + key + " has a value that is not known; a newer bhvit may know it");
    op.options[key] = value->string;
    given++;
  }
  require(fields.members.size() == given, where + kind->string + " has other attributes");
  for (const std::string& key : op.rule->attributes) {
    const Json* value = fields.find(key);
    require(value && value->is(Json::Kind::integer), where + key + " is missing or not an integer");
    require(value->integer >= 1 && value->integer <= limits().at(key),
            where + key + " must be 1 to " + std::to_string(limits().at(key)) + ", not " + std::to_string(value->integer));
    op.attributes[key] = value->integer;
  }
  try {
    op.rule->derive(op.attributes);
  } catch (const FormatError& error) {
    throw FormatError(where + error.what());
  }
  return op;
}

std::string join(const std::vector<int64_t>& dims) {
  std::string text;
  for (const int64_t dim : dims) {
    if (!text.empty()) text += 'x';
    text += std::to_string(dim);
  }
  return text;
}

}  // namespace

FormatError::FormatError(const std::string& message) : std::runtime_error([&] {
  // Names come from the file: whatever they hold, the message is one line of printable ASCII.
  constexpr size_t kStart = 240, kEnd = 160;
  std::string line = message;
  if (line.size() > kStart + kEnd) line = line.substr(0, kStart) + "..." + line.substr(line.size() - kEnd);
  for (char& c : line) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return line;
}()) {}

std::vector<int64_t> Op::output() const {
  const Op& a = *this;
  if (rule->kind == "head") return {1, 1, a["classes"]};
  if (rule->kind == "downsample" || rule->kind == "downsample_float") {
    return {a["height"] / 2, a["width"] / 2, a["out_channels"]};
  }
  return {a["height"], a["width"], a["channels"]};
}

bool Op::has(const TensorRule& tensor) const {
  std::istringstream conditions(tensor.when);
  std::string condition;
  while (conditions >> condition) {
    const size_t at = condition.find_first_of("=>");
    const std::string name = condition.substr(0, at), value = condition.substr(at + 1);
    const bool holds = condition[at] == '=' ? options.at(name) == value : attributes.at(name) > std::stoll(value);
    if (!holds) return false;
  }
  return true;
}

bool Op::bits(const TensorRule& tensor) const { return tensor.weights && options.at("weights") == "binary"; }

std::vector<int64_t> Op::shape(const TensorRule& tensor, const Dims& sizes) const {
  std::vector<int64_t> shape;
  for (const std::string& size : tensor.shape) {
    const auto known = sizes.find(size);
    shape.push_back(known != sizes.end() ? known->second : std::stoll(size));
  }
  if (bits(tensor)) shape.back() = (shape.back() + 31) / 32;
  if (tensor.weights) shape.push_back(kLanes);
  return shape;
}

std::vector<Op> read_program(const Json& list) {
  require(list.is(Json::Kind::array), "the header's program is not a list");
  require(list.items.size() >= 2 && list.items.size() <= kMaxOps,
          "a program has 2 to 1024 ops, not " + std::to_string(list.items.size()));
  std::vector<Op> ops;
  std::set<std::string> names;
  for (const Json& item : list.items) {
    ops.push_back(read_op(item));
    require(names.insert(ops.back().name).second, "two ops have one name: " + ops.back().name);
  }
  for (size_t i = 0; i < ops.size(); i++) {
    const Op& op = ops[i];
    const std::string where = "op " + op.name + ": ";
    require((op.rule->kind == "stem") == (i == 0), where + "a stem comes first and only there");
    require((op.rule->kind == "head") == (i + 1 == ops.size()), where + "a head comes last and only there");
    const std::vector<int64_t> out = op.output();
    require(out[0] * out[1] * out[2] <= kMaxGridFloats, where + "a grid of " + join(out) + " is over the limit");
    if (i) {
      const std::vector<int64_t> takes = {op["height"], op["width"], op["channels"]}, given = ops[i - 1].output();
      require(takes == given, where + "takes " + join(takes) + ", but " + ops[i - 1].name + " gives " + join(given));
    }
  }
  return ops;
}

std::string schema_json() {
  const auto add = [](std::string& to, const std::string& part) {
    if (!to.empty()) to += ',';
    to += part;
  };
  const auto quoted = [](const std::string& text) { return "\"" + text + "\""; };
  const auto list = [&](const std::vector<std::string>& names) {
    std::string text;
    for (const auto& name : names) add(text, quoted(name));
    return "[" + text + "]";
  };
  std::string limited, ops, chosen;
  for (const auto& [name, limit] : limits()) add(limited, quoted(name) + ":" + std::to_string(limit));
  for (const auto& [name, values] : options()) add(chosen, quoted(name) + ":" + list(values));
  for (const OpRule& rule : rules()) {
    std::string tensors;
    for (const TensorRule& tensor : rule.tensors) {
      add(tensors, quoted(tensor.name) + ":[" + list(tensor.shape) + "," + (tensor.weights ? "true" : "false") + "," +
                       quoted(tensor.when) + "]");
    }
    add(ops, quoted(rule.kind) + ":{\"attributes\":" + list(rule.attributes) + ",\"options\":" + list(rule.options) +
                 ",\"tensors\":{" + tensors + "}}");
  }
  return "{\"limits\":{" + limited + "},\"options\":{" + chosen + "},\"ops\":{" + ops +
         "},\"max_ops\":" + std::to_string(kMaxOps) + ",\"max_grid_floats\":" + std::to_string(kMaxGridFloats) + "}";
}

}  // namespace bhvit
