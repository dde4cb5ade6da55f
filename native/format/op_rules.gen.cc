// clang-format off
// Written by native/format/generate.py from the schema in src/bhvit/format; do not edit.

#include "format/schema.h"

namespace bhvit {
namespace {

int64_t size_1(const Dims&) { return 1; }
int64_t size_16(const Dims&) { return 16; }
int64_t size_2(const Dims&) { return 2; }
int64_t size_3(const Dims&) { return 3; }
int64_t size_4_times_channels(const Dims& a) { return 4 * a.at("channels"); }
int64_t size_9(const Dims&) { return 9; }
int64_t size_9_times_channels_over_groups(const Dims& a) { return 9 * a.at("channels") / a.at("groups"); }
int64_t size_channels(const Dims& a) { return a.at("channels"); }
int64_t size_channels_over_heads_plus_1(const Dims& a) { return a.at("channels") / a.at("heads") + 1; }
int64_t size_classes(const Dims& a) { return a.at("classes"); }
int64_t size_heads(const Dims& a) { return a.at("heads"); }
int64_t size_height(const Dims& a) { return a.at("height"); }
int64_t size_height_times_scale(const Dims& a) { return a.at("height") * a.at("scale"); }
int64_t size_height_times_width(const Dims& a) { return a.at("height") * a.at("width"); }
int64_t size_height_times_width_over_4(const Dims& a) { return a.at("height") * a.at("width") / 4; }
int64_t size_height_over_2(const Dims& a) { return a.at("height") / 2; }
int64_t size_hidden(const Dims& a) { return a.at("hidden"); }
int64_t size_in_chans_times_kernel_times_kernel(const Dims& a) { return a.at("in_chans") * a.at("kernel") * a.at("kernel"); }
int64_t size_out_channels(const Dims& a) { return a.at("out_channels"); }
int64_t size_tiles_channels(const Dims& a) { return tiles(a.at("channels")); }
int64_t size_tiles_classes(const Dims& a) { return tiles(a.at("classes")); }
int64_t size_tiles_hidden(const Dims& a) { return tiles(a.at("hidden")); }
int64_t size_tiles_out_channels(const Dims& a) { return tiles(a.at("out_channels")); }
int64_t size_width(const Dims& a) { return a.at("width"); }
int64_t size_width_times_scale(const Dims& a) { return a.at("width") * a.at("scale"); }
int64_t size_width_over_2(const Dims& a) { return a.at("width") / 2; }

bool if_activations_binary(const Op& op) { return op.is("activations", "binary"); }
bool if_key_pool_above_1(const Op& op) { return op.attributes.at("key_pool") > 1; }
bool if_key_pool_above_1_norm_layer(const Op& op) { return op.attributes.at("key_pool") > 1 && op.is("norm", "layer"); }
bool if_norm_batch(const Op& op) { return op.is("norm", "batch"); }
bool if_norm_layer(const Op& op) { return op.is("norm", "layer"); }
bool if_quantizer_gsb(const Op& op) { return op.is("quantizer", "gsb"); }

constexpr Size kShape_2[] = {size_2};
constexpr Size kShape_3__channels[] = {size_3, size_channels};
constexpr Size kShape_3__tiles_channels__9_times_channels_over_groups[] = {size_3, size_tiles_channels, size_9_times_channels_over_groups};
constexpr Size kShape_3__tiles_channels__channels[] = {size_3, size_tiles_channels, size_channels};
constexpr Size kShape_9__channels[] = {size_9, size_channels};
constexpr Size kShape_channels[] = {size_channels};
constexpr Size kShape_channels_over_heads_plus_1[] = {size_channels_over_heads_plus_1};
constexpr Size kShape_classes[] = {size_classes};
constexpr Size kShape_heads[] = {size_heads};
constexpr Size kShape_height_times_width__channels[] = {size_height_times_width, size_channels};
constexpr Size kShape_height_times_width_over_4__out_channels[] = {size_height_times_width_over_4, size_out_channels};
constexpr Size kShape_hidden[] = {size_hidden};
constexpr Size kShape_out_channels[] = {size_out_channels};
constexpr Size kShape_tiles_channels__channels[] = {size_tiles_channels, size_channels};
constexpr Size kShape_tiles_channels__hidden[] = {size_tiles_channels, size_hidden};
constexpr Size kShape_tiles_channels__in_chans_times_kernel_times_kernel__16[] = {size_tiles_channels, size_in_chans_times_kernel_times_kernel, size_16};
constexpr Size kShape_tiles_classes__channels__16[] = {size_tiles_classes, size_channels, size_16};
constexpr Size kShape_tiles_hidden__channels[] = {size_tiles_hidden, size_channels};
constexpr Size kShape_tiles_out_channels__4_times_channels[] = {size_tiles_out_channels, size_4_times_channels};
constexpr Size kShape_tiles_out_channels__4_times_channels__16[] = {size_tiles_out_channels, size_4_times_channels, size_16};
constexpr Size kShape_tiles_out_channels__channels[] = {size_tiles_out_channels, size_channels};

constexpr std::string_view kValues_norm[] = {"batch", "layer"};
constexpr std::string_view kValues_weights[] = {"binary", "float"};
constexpr std::string_view kValues_activations[] = {"binary", "float"};
constexpr std::string_view kValues_quantizer[] = {"decomposition", "gsb", "one_bit"};
constexpr std::string_view kValues_border[] = {"cyclic", "zero"};
constexpr std::string_view kValues_activation[] = {"gelu", "none"};

void check_stem(const Dims& a) {
  require(a.at("channels") % 32 == 0, "channels must be a multiple of 32");
  require(a.at("patch") <= a.at("kernel") && (a.at("kernel") + a.at("patch")) % 2 == 0, "kernel must be patch plus an even number");
}
constexpr AttributeRule k_stem_attributes[] = {{"height", ""}, {"width", ""}, {"in_chans", ""}, {"patch", ""}, {"kernel", "patch"}, {"channels", ""}};
constexpr std::string_view k_stem_options[] = {"norm", "activation"};
constexpr TensorRule k_stem_tensors[] = {
    {"weight", kShape_tiles_channels__in_chans_times_kernel_times_kernel__16, false, nullptr},
    {"bias", kShape_channels, false, nullptr},
    {"norm_scale", kShape_channels, false, if_norm_layer},
    {"norm_shift", kShape_channels, false, if_norm_layer},
    {"position", kShape_height_times_width__channels, false, nullptr},
};

void check_mixer(const Dims& a) {
  require(a.at("channels") % (16 * a.at("groups")) == 0, "channels must be a multiple of 16 per group");
}
constexpr AttributeRule k_mixer_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}, {"groups", ""}};
constexpr std::string_view k_mixer_options[] = {"norm", "weights", "activations"};
constexpr TensorRule k_mixer_tensors[] = {
    {"norm_scale", kShape_channels, false, nullptr},
    {"norm_shift", kShape_channels, false, nullptr},
    {"weight", kShape_3__tiles_channels__9_times_channels_over_groups, true, nullptr},
    {"scale", kShape_3__channels, false, nullptr},
    {"shift", kShape_3__channels, false, nullptr},
    {"slope", kShape_3__channels, false, nullptr},
    {"sum_shift", kShape_channels, false, if_norm_layer},
    {"out_scale", kShape_channels, false, nullptr},
    {"out_shift", kShape_channels, false, nullptr},
};
constexpr Grid k_mixer_inputs[] = {{{size_height, size_width, size_channels}}};

void check_pooling(const Dims& a) {
  require(a.at("channels") % 32 == 0, "channels must be a multiple of 32");
}
constexpr AttributeRule k_pooling_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}};
constexpr std::string_view k_pooling_options[] = {"norm"};
constexpr TensorRule k_pooling_tensors[] = {
    {"norm_scale", kShape_channels, false, nullptr},
    {"norm_shift", kShape_channels, false, nullptr},
    {"out_scale", kShape_channels, false, nullptr},
    {"out_shift", kShape_channels, false, nullptr},
};
constexpr Grid k_pooling_inputs[] = {{{size_height, size_width, size_channels}}};

void check_mlp(const Dims& a) {
  require(a.at("channels") % 32 == 0, "channels must be a multiple of 32");
  require(a.at("hidden") % a.at("channels") == 0 && a.at("channels") % (a.at("hidden") / a.at("channels")) == 0, "hidden must be r*channels with r a divisor of channels");
}
constexpr AttributeRule k_mlp_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}, {"hidden", ""}};
constexpr std::string_view k_mlp_options[] = {"norm", "weights", "activations", "border"};
constexpr TensorRule k_mlp_tensors[] = {
    {"norm_scale", kShape_channels, false, nullptr},
    {"norm_shift", kShape_channels, false, nullptr},
    {"weight1", kShape_tiles_hidden__channels, true, nullptr},
    {"threshold1", kShape_channels, false, nullptr},
    {"scale1", kShape_hidden, false, nullptr},
    {"shift1", kShape_hidden, false, nullptr},
    {"slope1", kShape_hidden, false, nullptr},
    {"weight_scale1", kShape_hidden, false, if_norm_layer},
    {"weight2", kShape_tiles_channels__hidden, true, nullptr},
    {"threshold2", kShape_hidden, false, nullptr},
    {"scale2", kShape_channels, false, nullptr},
    {"shift2", kShape_channels, false, nullptr},
    {"slope2", kShape_channels, false, nullptr},
    {"out_scale", kShape_channels, false, nullptr},
    {"out_shift", kShape_channels, false, nullptr},
    {"weight_scale2", kShape_channels, false, if_norm_layer},
    {"taps", kShape_9__channels, false, nullptr},
};
constexpr Grid k_mlp_inputs[] = {{{size_height, size_width, size_channels}}};

void check_attention(const Dims& a) {
  require(a.at("channels") % (32 * a.at("heads")) == 0, "channels per head must be a multiple of 32");
  require(a.at("height") % a.at("window_h") == 0 && a.at("width") % a.at("window_w") == 0, "windows must divide the grid");
  require(a.at("window_h") * a.at("window_w") + a.at("height") / a.at("window_h") * (a.at("width") / a.at("window_w")) <= 4096, "at most 4096 keys a window");
}
constexpr AttributeRule k_attention_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}, {"heads", ""}, {"window_h", ""}, {"window_w", ""}};
constexpr std::string_view k_attention_options[] = {"norm", "weights", "activations", "quantizer"};
constexpr TensorRule k_attention_tensors[] = {
    {"norm_scale", kShape_channels, false, nullptr},
    {"norm_shift", kShape_channels, false, nullptr},
    {"pool_max", kShape_channels, false, nullptr},
    {"pool_avg", kShape_channels, false, nullptr},
    {"token_scale", kShape_channels, false, nullptr},
    {"token_shift", kShape_channels, false, nullptr},
    {"qkv_weight", kShape_3__tiles_channels__channels, true, nullptr},
    {"in_threshold", kShape_3__channels, false, nullptr},
    {"qkv_scale", kShape_3__channels, false, nullptr},
    {"qkv_shift", kShape_3__channels, false, nullptr},
    {"qkv_slope", kShape_3__channels, false, nullptr},
    {"qkv_threshold", kShape_3__channels, false, nullptr},
    {"qkv_weight_scale", kShape_3__channels, false, if_norm_layer},
    {"proj_weight", kShape_tiles_channels__channels, true, nullptr},
    {"mix_shift", kShape_channels, false, nullptr},
    {"proj_threshold", kShape_channels, false, nullptr},
    {"proj_scale", kShape_channels, false, nullptr},
    {"proj_shift", kShape_channels, false, nullptr},
    {"proj_slope", kShape_channels, false, nullptr},
    {"out_scale", kShape_channels, false, nullptr},
    {"out_shift", kShape_channels, false, nullptr},
    {"proj_weight_scale", kShape_channels, false, if_norm_layer},
    {"exp_table", kShape_channels_over_heads_plus_1, false, if_activations_binary},
    {"level_scale", kShape_heads, false, if_activations_binary},
    {"level_shift", kShape_heads, false, if_activations_binary},
    {"plane_scale", kShape_2, false, if_quantizer_gsb},
    {"ctx_scale", kShape_channels, false, nullptr},
    {"ctx_shift", kShape_channels, false, nullptr},
    {"ctx_slope", kShape_channels, false, nullptr},
    {"ctx_weight_scale", kShape_channels, false, if_norm_layer},
    {"mix_local", kShape_channels, false, nullptr},
    {"mix_global", kShape_channels, false, nullptr},
};
constexpr Grid k_attention_inputs[] = {{{size_height, size_width, size_channels}}};

void check_pooled_attention(const Dims& a) {
  require(a.at("channels") % (32 * a.at("heads")) == 0, "channels per head must be a multiple of 32");
  require(a.at("height") % a.at("key_pool") == 0 && a.at("width") % a.at("key_pool") == 0, "key_pool must divide the grid");
  require(a.at("height") * a.at("width") / (a.at("key_pool") * a.at("key_pool")) <= 4096, "at most 4096 keys");
}
constexpr AttributeRule k_pooled_attention_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}, {"heads", ""}, {"key_pool", ""}};
constexpr std::string_view k_pooled_attention_options[] = {"norm", "weights", "activations", "quantizer"};
constexpr TensorRule k_pooled_attention_tensors[] = {
    {"norm_scale", kShape_channels, false, nullptr},
    {"norm_shift", kShape_channels, false, nullptr},
    {"reduce_weight", kShape_tiles_channels__channels, true, if_key_pool_above_1},
    {"reduce_threshold", kShape_channels, false, if_key_pool_above_1},
    {"reduce_scale", kShape_channels, false, if_key_pool_above_1},
    {"reduce_shift_in", kShape_channels, false, if_key_pool_above_1},
    {"reduce_slope", kShape_channels, false, if_key_pool_above_1},
    {"reduce_shift", kShape_channels, false, if_key_pool_above_1},
    {"reduce_weight_scale", kShape_channels, false, if_key_pool_above_1_norm_layer},
    {"qkv_weight", kShape_3__tiles_channels__channels, true, nullptr},
    {"in_threshold", kShape_3__channels, false, nullptr},
    {"qkv_scale", kShape_3__channels, false, nullptr},
    {"qkv_shift", kShape_3__channels, false, nullptr},
    {"qkv_slope", kShape_3__channels, false, nullptr},
    {"qkv_threshold", kShape_3__channels, false, nullptr},
    {"qkv_weight_scale", kShape_3__channels, false, if_norm_layer},
    {"proj_weight", kShape_tiles_channels__channels, true, nullptr},
    {"mix_shift", kShape_channels, false, nullptr},
    {"proj_threshold", kShape_channels, false, nullptr},
    {"proj_scale", kShape_channels, false, nullptr},
    {"proj_shift", kShape_channels, false, nullptr},
    {"proj_slope", kShape_channels, false, nullptr},
    {"out_scale", kShape_channels, false, nullptr},
    {"out_shift", kShape_channels, false, nullptr},
    {"proj_weight_scale", kShape_channels, false, if_norm_layer},
    {"exp_table", kShape_channels_over_heads_plus_1, false, if_activations_binary},
    {"level_scale", kShape_heads, false, if_activations_binary},
    {"level_shift", kShape_heads, false, if_activations_binary},
    {"plane_scale", kShape_2, false, if_quantizer_gsb},
    {"ctx_scale", kShape_channels, false, nullptr},
    {"ctx_shift", kShape_channels, false, nullptr},
    {"ctx_slope", kShape_channels, false, nullptr},
    {"ctx_weight_scale", kShape_channels, false, if_norm_layer},
};
constexpr Grid k_pooled_attention_inputs[] = {{{size_height, size_width, size_channels}}};

void check_downsample(const Dims& a) {
  require(a.at("channels") % 32 == 0 && a.at("out_channels") % 32 == 0, "channels must be multiples of 32");
  require(a.at("out_channels") % a.at("channels") == 0, "out_channels must be a multiple of channels");
  require(a.at("height") % 2 == 0 && a.at("width") % 2 == 0, "height and width must be even");
}
constexpr AttributeRule k_downsample_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}, {"out_channels", ""}};
constexpr std::string_view k_downsample_options[] = {"norm", "weights", "activations"};
constexpr TensorRule k_downsample_tensors[] = {
    {"norm_scale", kShape_channels, false, nullptr},
    {"norm_shift", kShape_channels, false, nullptr},
    {"weight", kShape_tiles_out_channels__4_times_channels, true, nullptr},
    {"threshold", kShape_channels, false, nullptr},
    {"scale", kShape_out_channels, false, nullptr},
    {"shift", kShape_out_channels, false, nullptr},
    {"slope", kShape_out_channels, false, nullptr},
    {"out_shift", kShape_out_channels, false, nullptr},
    {"weight_scale", kShape_out_channels, false, if_norm_layer},
    {"position", kShape_height_times_width_over_4__out_channels, false, nullptr},
};
constexpr Grid k_downsample_inputs[] = {{{size_height, size_width, size_channels}}};

void check_downsample_float(const Dims& a) {
  require(a.at("channels") % 32 == 0 && a.at("out_channels") % 32 == 0, "channels must be multiples of 32");
  require(a.at("out_channels") % a.at("channels") == 0, "out_channels must be a multiple of channels");
  require(a.at("height") % 2 == 0 && a.at("width") % 2 == 0, "height and width must be even");
}
constexpr AttributeRule k_downsample_float_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}, {"out_channels", ""}};
constexpr std::string_view k_downsample_float_options[] = {"norm"};
constexpr TensorRule k_downsample_float_tensors[] = {
    {"weight", kShape_tiles_out_channels__4_times_channels__16, false, nullptr},
    {"bias", kShape_out_channels, false, if_norm_batch},
    {"norm_scale", kShape_channels, false, if_norm_layer},
    {"norm_shift", kShape_channels, false, if_norm_layer},
    {"scale", kShape_out_channels, false, if_norm_layer},
    {"shift", kShape_out_channels, false, if_norm_layer},
    {"position", kShape_height_times_width_over_4__out_channels, false, nullptr},
};
constexpr Grid k_downsample_float_inputs[] = {{{size_height, size_width, size_channels}}};

void check_head(const Dims&) {
}
constexpr AttributeRule k_head_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}, {"classes", ""}};
constexpr std::string_view k_head_options[] = {"norm"};
constexpr TensorRule k_head_tensors[] = {
    {"norm_scale", kShape_channels, false, nullptr},
    {"norm_shift", kShape_channels, false, nullptr},
    {"weight", kShape_tiles_classes__channels__16, false, nullptr},
    {"bias", kShape_classes, false, nullptr},
};
constexpr Grid k_head_inputs[] = {{{size_height, size_width, size_channels}}};

void check_lateral(const Dims& a) {
  require(a.at("channels") % 32 == 0 && a.at("out_channels") % 32 == 0, "channels must be multiples of 32");
  require(a.at("channels") % a.at("out_channels") == 0 || a.at("out_channels") % a.at("channels") == 0, "out_channels must be a multiple or a divisor of channels");
}
constexpr AttributeRule k_lateral_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}, {"out_channels", ""}};
constexpr std::string_view k_lateral_options[] = {"norm", "weights", "activations"};
constexpr TensorRule k_lateral_tensors[] = {
    {"norm_scale", kShape_channels, false, nullptr},
    {"norm_shift", kShape_channels, false, nullptr},
    {"weight", kShape_tiles_out_channels__channels, true, nullptr},
    {"threshold", kShape_channels, false, nullptr},
    {"scale", kShape_out_channels, false, nullptr},
    {"shift", kShape_out_channels, false, nullptr},
    {"slope", kShape_out_channels, false, nullptr},
    {"out_shift", kShape_out_channels, false, nullptr},
    {"weight_scale", kShape_out_channels, false, if_norm_layer},
};
constexpr Grid k_lateral_inputs[] = {{{size_height, size_width, size_channels}}};

void check_upsample_add(const Dims& a) {
  require(a.at("channels") % 32 == 0, "channels must be a multiple of 32");
  require(a.at("height") % 2 == 0 && a.at("width") % 2 == 0, "height and width must be even");
}
constexpr AttributeRule k_upsample_add_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}};
constexpr Grid k_upsample_add_inputs[] = {{{size_height, size_width, size_channels}}, {{size_height_over_2, size_width_over_2, size_channels}}};

void check_segment(const Dims& a) {
  require(a.at("channels") % 32 == 0, "channels must be a multiple of 32");
  require(a.at("classes") <= 255, "a segmentation has at most 255 classes");
}
constexpr AttributeRule k_segment_attributes[] = {{"height", ""}, {"width", ""}, {"channels", ""}, {"classes", ""}, {"scale", ""}};
constexpr std::string_view k_segment_options[] = {"norm"};
constexpr TensorRule k_segment_tensors[] = {
    {"norm_scale", kShape_channels, false, nullptr},
    {"norm_shift", kShape_channels, false, nullptr},
    {"weight", kShape_tiles_classes__channels__16, false, nullptr},
    {"bias", kShape_classes, false, nullptr},
};
constexpr Grid k_segment_inputs[] = {{{size_height, size_width, size_channels}}};

constexpr Limit kLimits[] = {
    {"height", 2048},
    {"width", 2048},
    {"in_chans", 64},
    {"patch", 64},
    {"kernel", 64},
    {"channels", 8192},
    {"out_channels", 8192},
    {"hidden", 65536},
    {"groups", 64},
    {"heads", 256},
    {"window_h", 64},
    {"window_w", 64},
    {"key_pool", 64},
    {"classes", 1048576},
    {"scale", 64},
};

constexpr OptionRule kOptions[] = {
    {"norm", kValues_norm},
    {"weights", kValues_weights},
    {"activations", kValues_activations},
    {"quantizer", kValues_quantizer},
    {"border", kValues_border},
    {"activation", kValues_activation},
};

constexpr OpRule kRules[] = {
    {"stem", k_stem_attributes, k_stem_options, k_stem_tensors, {}, check_stem, {size_height, size_width, size_channels}},
    {"mixer", k_mixer_attributes, k_mixer_options, k_mixer_tensors, k_mixer_inputs, check_mixer, {size_height, size_width, size_channels}},
    {"pooling", k_pooling_attributes, k_pooling_options, k_pooling_tensors, k_pooling_inputs, check_pooling, {size_height, size_width, size_channels}},
    {"mlp", k_mlp_attributes, k_mlp_options, k_mlp_tensors, k_mlp_inputs, check_mlp, {size_height, size_width, size_channels}},
    {"attention", k_attention_attributes, k_attention_options, k_attention_tensors, k_attention_inputs, check_attention, {size_height, size_width, size_channels}},
    {"pooled_attention", k_pooled_attention_attributes, k_pooled_attention_options, k_pooled_attention_tensors, k_pooled_attention_inputs, check_pooled_attention, {size_height, size_width, size_channels}},
    {"downsample", k_downsample_attributes, k_downsample_options, k_downsample_tensors, k_downsample_inputs, check_downsample, {size_height_over_2, size_width_over_2, size_out_channels}},
    {"downsample_float", k_downsample_float_attributes, k_downsample_float_options, k_downsample_float_tensors, k_downsample_float_inputs, check_downsample_float, {size_height_over_2, size_width_over_2, size_out_channels}},
    {"head", k_head_attributes, k_head_options, k_head_tensors, k_head_inputs, check_head, {size_1, size_1, size_classes}},
    {"lateral", k_lateral_attributes, k_lateral_options, k_lateral_tensors, k_lateral_inputs, check_lateral, {size_height, size_width, size_out_channels}},
    {"upsample_add", k_upsample_add_attributes, {}, {}, k_upsample_add_inputs, check_upsample_add, {size_height, size_width, size_channels}},
    {"segment", k_segment_attributes, k_segment_options, k_segment_tensors, k_segment_inputs, check_segment, {size_height_times_scale, size_width_times_scale, size_classes}},
};

}  // namespace

std::span<const Limit> limits() { return kLimits; }
std::span<const OptionRule> options() { return kOptions; }
std::span<const OpRule> rules() { return kRules; }

}  // namespace bhvit
