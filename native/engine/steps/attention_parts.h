// What both attentions have: heads and projections.

#pragma once

#include "engine/step.h"

namespace bhvit {

inline Heads make_heads(const Op& op, Parameters& p, long keys) {
  Heads h{};
  h.heads = op["heads"];
  h.depth = op["channels"] / h.heads;
  h.keys = keys;
  h.key_words = divide_up(keys, kWordBits);
  if (!signs(op)) return h;
  h.planes = op.is("quantizer", "one_bit") ? 1 : op.is("quantizer", "decomposition") ? 2 : 3;
  h.exp_table = p.floats("exp_table");
  h.level_scale = p.floats("level_scale");
  h.level_shift = p.floats("level_shift");
  if (h.planes == 3) h.plane_scale = p.floats("plane_scale");
  return h;
}

// The parameters that both attentions have.
template <class Args>
void fill_projections(Args& args, const Op& op, Parameters& p) {
  constexpr LinearNames names = {"qkv_weight", "in_threshold", "qkv_scale", "qkv_shift", "qkv_weight_scale"};
  constexpr LinearNames out_names = {"proj_weight", "proj_threshold", "proj_scale", "proj_shift", "proj_weight_scale"};
  const long channels = op["channels"];
  p.linear(args.qkv, kProjections, names, channels, channels);
  p.linear(&args.proj, 1, out_names, channels, channels);
  args.qkv_slope = p.floats("qkv_slope");
  args.qkv_threshold = p.floats("qkv_threshold");
  args.ctx_scale = p.floats("ctx_scale");
  args.ctx_shift = p.floats("ctx_shift");
  args.ctx_slope = p.floats("ctx_slope");
  args.ctx_weight_scale = layer_norm(op) ? p.floats("ctx_weight_scale") : nullptr;
  args.mix_shift = p.floats("mix_shift");
  args.proj_slope = p.floats("proj_slope");
  args.out_scale = p.floats("out_scale");
  args.out_shift = p.floats("out_shift");
}

}  // namespace bhvit
