// The mirror of src/bhvit/op_rules.py.

#include <cstddef>

#include "format/schema.h"

namespace bhvit {
namespace {

constexpr int64_t kMaxKeys = 4096;
constexpr int64_t kLanes = 16;

void require(bool condition, const std::string& message) {
  if (!condition) throw FormatError(message);
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t tiles(int64_t channels) { return divide_up(channels, kLanes); }

Dims derive_stem(const Dims& a) {
  const int64_t c = a.at("channels");
  require(c % 32 == 0, "channels must be a multiple of 32");
  return {{"C", c}, {"Ct", tiles(c)}, {"N", a.at("height") * a.at("width")},
          {"K", a.at("in_chans") * a.at("patch") * a.at("patch")}};
}

Dims derive_mixer(const Dims& a) {
  const int64_t c = a.at("channels"), groups = a.at("groups");
  require(c % (kLanes * groups) == 0, "channels must be a multiple of 16 per group");
  return {{"C", c}, {"Ct", tiles(c)}, {"D", 3}, {"K", 9 * c / groups}};
}

Dims derive_pooling(const Dims& a) {
  require(a.at("channels") % 32 == 0, "channels must be a multiple of 32");
  return {{"C", a.at("channels")}};
}

Dims derive_mlp(const Dims& a) {
  const int64_t c = a.at("channels"), hidden = a.at("hidden");
  require(c % 32 == 0, "channels must be a multiple of 32");
  require(hidden % c == 0 && c % (hidden / c) == 0, "hidden must be r*channels with r a divisor of channels");
  return {{"C", c}, {"F", hidden}, {"Ct", tiles(c)}, {"Ft", tiles(hidden)}, {"T", 9}};
}

Dims derive_heads(const Dims& a) {
  const int64_t c = a.at("channels"), heads = a.at("heads");
  require(c % (32 * heads) == 0, "channels per head must be a multiple of 32");
  return {{"C", c}, {"Ct", tiles(c)}, {"P", 3}, {"E", c / heads + 1}, {"heads", heads}};
}

Dims derive_attention(const Dims& a) {
  const int64_t height = a.at("height"), width = a.at("width"), window_h = a.at("window_h"), window_w = a.at("window_w");
  const Dims sizes = derive_heads(a);
  require(height % window_h == 0 && width % window_w == 0, "windows must divide the grid");
  const int64_t windows = height / window_h * (width / window_w);
  require(window_h * window_w + windows <= kMaxKeys, "at most 4096 keys a window");
  return sizes;
}

Dims derive_pooled_attention(const Dims& a) {
  const int64_t height = a.at("height"), width = a.at("width"), pool = a.at("key_pool");
  const Dims sizes = derive_heads(a);
  require(height % pool == 0 && width % pool == 0, "key_pool must divide the grid");
  require(height * width / (pool * pool) <= kMaxKeys, "at most 4096 keys");
  return sizes;
}

Dims derive_downsample(const Dims& a) {
  const int64_t c = a.at("channels"), out = a.at("out_channels");
  require(c % 32 == 0 && out % 32 == 0, "channels must be multiples of 32");
  require(out % c == 0, "out_channels must be a multiple of channels");
  require(a.at("height") % 2 == 0 && a.at("width") % 2 == 0, "height and width must be even");
  return {{"C", c}, {"O", out}, {"Ot", tiles(out)}, {"K", 4 * c}, {"N", a.at("height") * a.at("width") / 4}};
}

Dims derive_head(const Dims& a) {
  return {{"C", a.at("channels")}, {"K", a.at("classes")}, {"Kt", tiles(a.at("classes"))}};
}

using Shape = std::vector<std::string>;
using Rules = std::vector<TensorRule>;

Rules floats(const std::vector<std::string>& names, const Shape& shape, const std::string& when = "") {
  Rules rules;
  for (const auto& name : names) rules.push_back({name, shape, false, when});
  return rules;
}

Rules weights(const std::string& name, const Shape& shape, const std::string& when = "") {
  return {{name, shape, true, when}};
}

Rules join(std::initializer_list<Rules> parts) {
  Rules all;
  for (const Rules& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

std::vector<OpRule> make_rules() {
  const std::string layer = "norm=layer";
  const Rules norm = floats({"norm_scale", "norm_shift"}, {"C"});
  const Rules attend = join({floats({"exp_table"}, {"E"}, "activations=binary"),
                             floats({"level_scale", "level_shift"}, {"heads"}, "activations=binary"),
                             floats({"plane_scale"}, {"2"}, "quantizer=gsb"),
                             floats({"ctx_scale", "ctx_shift", "ctx_slope"}, {"C"}),
                             floats({"ctx_weight_scale"}, {"C"}, layer)});
  const Rules projections =
      join({weights("qkv_weight", {"P", "Ct", "C"}),
            floats({"in_threshold", "qkv_scale", "qkv_shift", "qkv_slope", "qkv_threshold"}, {"P", "C"}),
            floats({"qkv_weight_scale"}, {"P", "C"}, layer), weights("proj_weight", {"Ct", "C"}),
            floats({"mix_shift", "proj_threshold", "proj_scale", "proj_shift", "proj_slope", "out_scale", "out_shift"},
                   {"C"}),
            floats({"proj_weight_scale"}, {"C"}, layer)});
  const std::string pooled = "key_pool>1";
  const std::vector<std::string> quantised = {"norm", "weights", "activations"};
  const std::vector<std::string> attending = {"norm", "weights", "activations", "quantizer"};
  return {
      {"stem", {"height", "width", "in_chans", "patch", "channels"}, {"norm", "activation"},
       join({floats({"weight"}, {"Ct", "K", "16"}), floats({"bias"}, {"C"}),
             floats({"norm_scale", "norm_shift"}, {"C"}, layer), floats({"position"}, {"N", "C"})}),
       derive_stem},
      {"mixer", {"height", "width", "channels", "groups"}, quantised,
       join({norm, weights("weight", {"D", "Ct", "K"}), floats({"scale", "shift", "slope"}, {"D", "C"}),
             floats({"sum_shift"}, {"C"}, layer), floats({"out_scale", "out_shift"}, {"C"})}),
       derive_mixer},
      {"pooling", {"height", "width", "channels"}, {"norm"},
       join({norm, floats({"out_scale", "out_shift"}, {"C"})}),
       derive_pooling},
      {"mlp", {"height", "width", "channels", "hidden"}, {"norm", "weights", "activations", "border"},
       join({norm, weights("weight1", {"Ft", "C"}), floats({"threshold1"}, {"C"}),
             floats({"scale1", "shift1", "slope1"}, {"F"}), floats({"weight_scale1"}, {"F"}, layer),
             weights("weight2", {"Ct", "F"}), floats({"threshold2"}, {"F"}),
             floats({"scale2", "shift2", "slope2", "out_scale", "out_shift"}, {"C"}),
             floats({"weight_scale2"}, {"C"}, layer), floats({"taps"}, {"T", "C"})}),
       derive_mlp},
      {"attention", {"height", "width", "channels", "heads", "window_h", "window_w"}, attending,
       join({norm, floats({"pool_max", "pool_avg", "token_scale", "token_shift"}, {"C"}), projections, attend,
             floats({"mix_local", "mix_global"}, {"C"})}),
       derive_attention},
      {"pooled_attention", {"height", "width", "channels", "heads", "key_pool"}, attending,
       join({norm, weights("reduce_weight", {"Ct", "C"}, pooled),
             floats({"reduce_threshold", "reduce_scale", "reduce_shift_in", "reduce_slope", "reduce_shift"}, {"C"}, pooled),
             floats({"reduce_weight_scale"}, {"C"}, pooled + " " + layer), projections, attend}),
       derive_pooled_attention},
      {"downsample", {"height", "width", "channels", "out_channels"}, quantised,
       join({norm, weights("weight", {"Ot", "K"}), floats({"threshold"}, {"C"}),
             floats({"scale", "shift", "slope", "out_shift"}, {"O"}), floats({"weight_scale"}, {"O"}, layer),
             floats({"position"}, {"N", "O"})}),
       derive_downsample},
      {"downsample_float", {"height", "width", "channels", "out_channels"}, {"norm"},
       join({floats({"weight"}, {"Ot", "K", "16"}), floats({"bias"}, {"O"}, "norm=batch"),
             floats({"norm_scale", "norm_shift"}, {"C"}, layer), floats({"scale", "shift"}, {"O"}, layer),
             floats({"position"}, {"N", "O"})}),
       derive_downsample},
      {"head", {"height", "width", "channels", "classes"}, {"norm"},
       join({norm, floats({"weight"}, {"Kt", "C", "16"}), floats({"bias"}, {"K"})}),
       derive_head},
  };
}

}  // namespace

const Dims& limits() {
  static const Dims kLimits = {
      {"height", 2048},   {"width", 2048}, {"in_chans", 64}, {"patch", 64},    {"channels", 8192}, {"out_channels", 8192},
      {"hidden", 65536},  {"groups", 64},  {"heads", 256},   {"window_h", 64}, {"window_w", 64},   {"key_pool", 64},
      {"classes", int64_t{1} << 20}};
  return kLimits;
}

const std::map<std::string, std::vector<std::string>>& options() {
  static const std::map<std::string, std::vector<std::string>> kOptions = {
      {"norm", {"batch", "layer"}},        {"weights", {"binary", "float"}},
      {"activations", {"binary", "float"}}, {"quantizer", {"decomposition", "gsb", "one_bit"}},
      {"border", {"cyclic", "zero"}},      {"activation", {"gelu", "none"}}};
  return kOptions;
}

const std::vector<OpRule>& rules() {
  static const std::vector<OpRule> kRules = make_rules();
  return kRules;
}

}  // namespace bhvit
