#include "schema.h"

#include <numeric>
#include <set>

namespace bhvit {
namespace {

constexpr size_t kMaxOps = 1024;
constexpr int64_t kMaxGridFloats = int64_t{1} << 26;
constexpr int64_t kMaxKeys = 4096;
constexpr int64_t kLanes = 16;

const Dims kLimits = {{"height", 2048},  {"width", 2048},   {"in_chans", 64},     {"patch", 64},
                      {"channels", 8192}, {"out_channels", 8192}, {"hidden", 65536}, {"groups", 64},
                      {"heads", 256},     {"window_h", 64},   {"window_w", 64},     {"classes", int64_t{1} << 20}};

void require(bool condition, const std::string& message) {
  if (!condition) throw FormatError(message);
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t tiles(int64_t channels) { return divide_up(channels, kLanes); }
int64_t words(int64_t bits) { return divide_up(bits, 32); }

Dims derive_stem(const Dims& a) {
  const int64_t c = a.at("channels");
  require(c % 32 == 0, "channels must be a multiple of 32");
  return {{"C", c}, {"Ct", tiles(c)}, {"N", a.at("height") * a.at("width")},
          {"K", a.at("in_chans") * a.at("patch") * a.at("patch")}};
}

Dims derive_mixer(const Dims& a) {
  const int64_t c = a.at("channels"), groups = a.at("groups");
  require(c % (kLanes * groups) == 0, "channels must be a multiple of 16 per group");
  return {{"C", c}, {"Ct", tiles(c)}, {"D", 3}, {"Kw", words(9 * c / groups)}};
}

Dims derive_mlp(const Dims& a) {
  const int64_t c = a.at("channels"), hidden = a.at("hidden");
  require(c % 32 == 0, "channels must be a multiple of 32");
  require(hidden % c == 0 && c % (hidden / c) == 0, "hidden must be r*channels with r a divisor of channels");
  return {{"C", c}, {"F", hidden}, {"Ct", tiles(c)}, {"Ft", tiles(hidden)}, {"Cw", words(c)}, {"Fw", words(hidden)},
          {"T", 9}};
}

Dims derive_attention(const Dims& a) {
  const int64_t c = a.at("channels"), heads = a.at("heads");
  const int64_t height = a.at("height"), width = a.at("width"), window_h = a.at("window_h"), window_w = a.at("window_w");
  require(c % (32 * heads) == 0, "channels per head must be a multiple of 32");
  require(height % window_h == 0 && width % window_w == 0, "windows must divide the grid");
  const int64_t windows = height / window_h * (width / window_w);
  require(window_h * window_w + windows <= kMaxKeys, "at most 4096 keys a window");
  return {{"C", c}, {"Ct", tiles(c)}, {"Cw", words(c)}, {"P", 3}, {"E", c / heads + 1}, {"heads", heads}};
}

Dims derive_downsample(const Dims& a) {
  const int64_t c = a.at("channels"), out = a.at("out_channels");
  require(c % 32 == 0 && out % 32 == 0, "channels must be multiples of 32");
  require(out % c == 0, "out_channels must be a multiple of channels");
  require(a.at("height") % 2 == 0 && a.at("width") % 2 == 0, "height and width must be even");
  return {{"C", c}, {"O", out}, {"Ot", tiles(out)}, {"K", 4 * c}, {"Kw", words(4 * c)},
          {"N", a.at("height") * a.at("width") / 4}};
}

Dims derive_head(const Dims& a) {
  return {{"C", a.at("channels")}, {"K", a.at("classes")}, {"Kt", tiles(a.at("classes"))}};
}

using Shape = std::vector<std::string>;

void add_floats(std::vector<TensorRule>& to, const std::vector<std::string>& names, const Shape& shape) {
  for (const auto& name : names) to.push_back({name, false, shape});
}

void add_bits(std::vector<TensorRule>& to, const std::string& name, Shape shape) {
  shape.push_back("16");
  to.push_back({name, true, shape});
}

std::vector<OpRule> make_rules() {
  std::vector<OpRule> rules;
  const auto add = [&](const char* kind, std::vector<std::string> attributes, Dims (*derive)(const Dims&)) -> auto& {
    rules.push_back({kind, std::move(attributes), {}, derive});
    return rules.back().tensors;
  };
  {
    auto& t = add("stem", {"height", "width", "in_chans", "patch", "channels"}, derive_stem);
    add_floats(t, {"weight"}, {"Ct", "K", "16"});
    add_floats(t, {"bias"}, {"C"});
    add_floats(t, {"position"}, {"N", "C"});
  }
  {
    auto& t = add("mixer", {"height", "width", "channels", "groups"}, derive_mixer);
    add_floats(t, {"norm_scale", "norm_shift", "out_scale", "out_shift"}, {"C"});
    add_bits(t, "weight", {"D", "Ct", "Kw"});
    add_floats(t, {"scale", "shift", "slope"}, {"D", "C"});
  }
  {
    auto& t = add("mlp", {"height", "width", "channels", "hidden"}, derive_mlp);
    add_floats(t, {"norm_scale", "norm_shift", "threshold1", "scale2", "shift2", "slope2", "out_scale", "out_shift"},
               {"C"});
    add_bits(t, "weight1", {"Ft", "Cw"});
    add_floats(t, {"scale1", "shift1", "slope1", "threshold2"}, {"F"});
    add_bits(t, "weight2", {"Ct", "Fw"});
    add_floats(t, {"taps"}, {"T", "C"});
  }
  {
    auto& t = add("attention", {"height", "width", "channels", "heads", "window_h", "window_w"}, derive_attention);
    add_floats(t, {"norm_scale", "norm_shift", "pool_max", "pool_avg", "token_scale", "token_shift"}, {"C"});
    add_floats(t, {"in_threshold", "qkv_scale", "qkv_shift", "qkv_slope", "qkv_threshold"}, {"P", "C"});
    add_bits(t, "qkv_weight", {"P", "Ct", "Cw"});
    add_floats(t, {"exp_table"}, {"E"});
    add_floats(t, {"level_scale", "level_shift"}, {"heads"});
    add_floats(t, {"ctx_scale", "ctx_shift", "ctx_slope", "mix_local", "mix_global", "mix_shift"}, {"C"});
    add_bits(t, "proj_weight", {"Ct", "Cw"});
    add_floats(t, {"proj_threshold", "proj_scale", "proj_shift", "proj_slope", "out_scale", "out_shift"}, {"C"});
  }
  {
    auto& t = add("downsample", {"height", "width", "channels", "out_channels"}, derive_downsample);
    add_floats(t, {"norm_scale", "norm_shift", "threshold"}, {"C"});
    add_bits(t, "weight", {"Ot", "Kw"});
    add_floats(t, {"scale", "shift", "slope", "out_shift"}, {"O"});
    add_floats(t, {"position"}, {"N", "O"});
  }
  {
    auto& t = add("downsample_float", {"height", "width", "channels", "out_channels"}, derive_downsample);
    add_floats(t, {"weight"}, {"Ot", "K", "16"});
    add_floats(t, {"bias"}, {"O"});
    add_floats(t, {"position"}, {"N", "O"});
  }
  {
    auto& t = add("head", {"height", "width", "channels", "classes"}, derive_head);
    add_floats(t, {"norm_scale", "norm_shift"}, {"C"});
    add_floats(t, {"weight"}, {"Kt", "C", "16"});
    add_floats(t, {"bias"}, {"K"});
  }
  return rules;
}

const std::vector<OpRule>& rules() {
  static const std::vector<OpRule> kRules = make_rules();
  return kRules;
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
  require(fields.members.size() == op.rule->attributes.size() + 2, where + kind->string + " has other attributes");
  for (const std::string& key : op.rule->attributes) {
    const Json* value = fields.find(key);
    require(value && value->is(Json::Kind::integer), where + key + " is missing or not an integer");
    require(value->integer >= 1 && value->integer <= kLimits.at(key),
            where + key + " must be 1 to " + std::to_string(kLimits.at(key)) + ", not " + std::to_string(value->integer));
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

std::vector<int64_t> Op::shape(const TensorRule& tensor, const Dims& sizes) const {
  std::vector<int64_t> shape;
  for (const std::string& size : tensor.shape) {
    const auto known = sizes.find(size);
    shape.push_back(known != sizes.end() ? known->second : std::stoll(size));
  }
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
  const auto list = [](const std::vector<std::string>& names) {
    std::string text;
    for (const auto& name : names) text += (text.empty() ? "\"" : ",\"") + name + "\"";
    return "[" + text + "]";
  };
  std::string limits, ops;
  for (const auto& [name, limit] : kLimits) limits += (limits.empty() ? "\"" : ",\"") + name + "\":" + std::to_string(limit);
  for (const OpRule& rule : rules()) {
    std::string tensors;
    for (const TensorRule& tensor : rule.tensors) {
      tensors += (tensors.empty() ? "\"" : ",\"") + tensor.name + "\":[\"" + (tensor.bits ? "bits" : "float") + "\"," +
                 list(tensor.shape) + "]";
    }
    ops += (ops.empty() ? "\"" : ",\"") + rule.kind + "\":{\"attributes\":" + list(rule.attributes) + ",\"tensors\":{" +
           tensors + "}}";
  }
  return "{\"limits\":{" + limits + "},\"ops\":{" + ops + "},\"max_ops\":" + std::to_string(kMaxOps) +
         ",\"max_grid_floats\":" + std::to_string(kMaxGridFloats) + "}";
}

}  // namespace bhvit
