#include "format/schema.h"

#include <algorithm>
#include <map>

namespace bhvit {
namespace {

// The entry of a table with this name, which has one.
template <class Table>
const auto& entry(const Table& table, std::string_view name) {
  return *std::find_if(table.begin(), table.end(), [&](const auto& each) { return each.name == name; });
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
  size_t given = op.rule->attributes.size() + 2 + (fields.find("reads") ? 1 : 0);
  for (const std::string_view name : op.rule->options) {
    const std::string key(name);
    const std::span<const std::string_view> values = entry(options(), key).values;
    const Json* value = fields.find(key);
    op.options[key] = values.front();
    if (!value) continue;
    const bool known = value->is(Json::Kind::string) && value->string != values.front() &&
                       std::find(values.begin(), values.end(), value->string) != values.end();
    require(known, where + key + " has a value that is not known; a newer bhvit may know it");
    op.options[key] = value->string;
    given++;
  }
  for (const AttributeRule& attribute : op.rule->attributes) {
    if (!attribute.otherwise.empty() && !fields.find(std::string(attribute.name))) given--;
  }
  require(fields.members.size() == given, where + kind->string + " has other attributes");
  for (const AttributeRule& attribute : op.rule->attributes) {
    const std::string key(attribute.name);
    const Json* value = fields.find(key);
    if (!value && !attribute.otherwise.empty()) value = fields.find(std::string(attribute.otherwise));
    const int64_t most = entry(limits(), key).most;
    require(value && value->is(Json::Kind::integer), where + key + " is missing or not an integer");
    require(value->integer >= 1 && value->integer <= most,
            where + key + " must be 1 to " + std::to_string(most) + ", not " + std::to_string(value->integer));
    op.attributes[key] = value->integer;
  }
  for (const auto& [key, otherwise] : op.rule->attributes) {
    if (otherwise.empty() || !fields.find(std::string(key))) continue;
    const std::string name(key), other(otherwise);
    require(op[name.c_str()] != op[other.c_str()], where + name + " is left out where it equals " + other);
  }
  try {
    op.rule->check(op.attributes);
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

FormatError::FormatError(const std::string& message)
    : std::runtime_error([&] {
        // Names come from the file: whatever they hold, the message is one line of printable ASCII.
        constexpr size_t kStart = 240, kEnd = 160;
        std::string line = message;
        if (line.size() > kStart + kEnd) line = line.substr(0, kStart) + "..." + line.substr(line.size() - kEnd);
        for (char& c : line) {
          if (c < 0x20 || c > 0x7e) c = '?';
        }
        return line;
      }()) {}

void require(bool condition, const std::string& message) {
  if (!condition) throw FormatError(message);
}

std::vector<int64_t> Op::grid(const Grid& sizes) const {
  std::vector<int64_t> shape;
  for (const Size size : sizes.size) shape.push_back(size(attributes));
  return shape;
}

bool Op::bits(const TensorRule& tensor) const { return tensor.weights && is("weights", "binary"); }

std::vector<int64_t> Op::shape(const TensorRule& tensor) const {
  std::vector<int64_t> shape;
  for (const Size size : tensor.shape) shape.push_back(size(attributes));
  if (bits(tensor)) shape.back() = (shape.back() + 31) / 32;
  if (tensor.weights) shape.push_back(kTileOutputs);
  return shape;
}

namespace {

using Numbers = std::map<std::string, size_t, std::less<>>;

// The numbers of the ops whose values op number `index` reads.
std::vector<size_t> read_sources(const Op& op, size_t index, const Json* reads, const Numbers& names) {
  const std::string where = "op " + op.name + ": ", kind(op.rule->kind);
  const size_t count = op.rule->inputs.size();
  if (!reads) {
    require(count <= 1, where + "reads names the " + std::to_string(count) + " values that a " + kind + " takes");
    return std::vector<size_t>(count, index - 1);
  }
  require(reads->is(Json::Kind::array), where + "reads is not a list of names");
  for (const Json& name : reads->items) {
    require(name.is(Json::Kind::string), where + "reads is not a list of names");
  }
  require(reads->items.size() == count, where + "reads " + std::to_string(reads->items.size()) + " values, but a " +
                                            kind + " takes " + std::to_string(count));
  std::vector<size_t> sources;
  for (const Json& name : reads->items) {
    const auto found = names.find(name.string);
    require(found != names.end(), where + "reads " + name.string + ", which no op gives");
    require(found->second < index, where + "reads " + name.string + " before it is given");
    require(std::find(sources.begin(), sources.end(), found->second) == sources.end(), where + "reads one value twice");
    sources.push_back(found->second);
  }
  require(count > 1 || sources != std::vector<size_t>(count, index - 1),
          where + "reads is left out where it is the op before");
  return sources;
}

}  // namespace

std::vector<Op> read_program(const Json& list) {
  require(list.is(Json::Kind::array), "the header's program is not a list");
  require(list.items.size() >= 2 && list.items.size() <= kMaxOps,
          "a program has 2 to 1024 ops, not " + std::to_string(list.items.size()));
  std::vector<Op> ops;
  Numbers names;
  for (const Json& item : list.items) {
    ops.push_back(read_op(item));
    require(names.emplace(ops.back().name, ops.size() - 1).second, "two ops have one name: " + ops.back().name);
  }
  std::vector<bool> read(ops.size());
  for (size_t i = 0; i < ops.size(); i++) {
    Op& op = ops[i];
    const std::string where = "op " + op.name + ": ";
    require((op.rule->kind == "stem") == (i == 0), where + "a stem comes first and only there");
    require((op.rule->kind == "head" || op.segments()) == (i + 1 == ops.size()),
            where + "a head comes last and only there");
    const std::vector<int64_t> out = op.output();
    require(out[0] * out[1] * out[2] <= kMaxGridFloats, where + "a grid of " + join(out) + " is over the limit");
    op.reads = read_sources(op, i, list.items[i].find("reads"), names);
    for (size_t k = 0; k < op.reads.size(); k++) {
      const Op& source = ops[op.reads[k]];
      const std::vector<int64_t> takes = op.grid(op.rule->inputs[k]), given = source.output();
      require(takes == given, where + "takes " + join(takes) + ", but " + source.name + " gives " + join(given));
      read[op.reads[k]] = true;
    }
  }
  for (size_t i = 0; i + 1 < ops.size(); i++) require(read[i], "op " + ops[i].name + ": no op reads what it gives");
  const Op &stem = ops.front(), &last = ops.back();
  if (last.segments()) {
    const std::vector<int64_t> image = {stem["height"] * stem["patch"], stem["width"] * stem["patch"]};
    const std::vector<int64_t> labels = {last.output()[0], last.output()[1]};
    require(image == labels,
            "op " + last.name + ": labels " + join(labels) + " pixels, but images have " + join(image));
  }
  return ops;
}

}  // namespace bhvit
