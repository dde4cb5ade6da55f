// Attention of a whole grid to pooled keys.

#include "engine/steps/attention_parts.h"

namespace bhvit {
namespace {

class PooledAttentionStep : public Step {
 public:
  PooledAttentionStep(const Op& op, const ParameterSource& source) {
    const long channels = op["channels"];
    Parameters p(op, source);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = channels;
    args_.key_pool = op["key_pool"];
    args_.heads = make_heads(op, p, args_.height / args_.key_pool * (args_.width / args_.key_pool));
    fill_projections(args_, op, p);
    if (args_.key_pool > 1) {
      constexpr LinearNames names = {"reduce_weight", "reduce_threshold", "reduce_scale", "reduce_shift_in",
                                     "reduce_weight_scale"};
      p.linear(&args_.reduce, 1, names, channels, channels);
      args_.reduce_slope = p.floats("reduce_slope");
      args_.reduce_shift = p.floats("reduce_shift");
    }
    norm_ = norm_args(op, p);
  }

  void place(Workspace& memory) override {
    const Heads& h = args_.heads;
    const long channels = args_.channels, keys16 = round_up(h.keys, kLanes);
    args_.n = norm_.n = memory.shared<float>(args_.height * args_.width * channels);
    args_.key_rest = memory.shared<float>(h.keys * channels);
    args_.value_rest = memory.shared<float>(h.keys * channels);
    if (h.planes) {
      args_.key_signs = memory.shared<uint16_t>(h.keys * channels / kLanes);
      args_.value_signs = memory.shared<uint16_t>(h.keys * channels / kLanes);
      args_.key_tiles = memory.shared<uint32_t>(h.heads * key_tile_words(h));
      args_.value_tiles = memory.shared<uint32_t>(h.heads * value_tile_words(h));
    } else {
      args_.key_values = memory.shared<float>(h.keys * channels);
      args_.value_values = memory.shared<float>(h.keys * channels);
      args_.key_tiles_float = memory.shared<float>(keys16 * channels);
    }
    memory.scratch<PooledKeysScratch>(args_);
    memory.scratch<PooledQueriesScratch>(args_);
    norm_.x = args_.x = memory.output();
  }

  void run(const RunContext& context) const override {
    const PooledArgs& a = args_;
    const long tokens = a.height * a.width;
    const auto scratch = [&](int thread) { return context.scratch[static_cast<size_t>(thread)]; };
    run_norm(context, norm_, tokens);
    context.pool->run(a.heads.keys, kTokenGrain, [&](long begin, long end, int thread) {
      context.kernels->ops.pooled_attention.keys(a, begin, end, scratch(thread));
    });
    context.pool->run(a.heads.heads, 1,
                      [&](long begin, long end, int) { context.kernels->ops.pooled_attention.tiles(a, begin, end); });
    context.pool->run(tokens, kTokenGrain, [&](long begin, long end, int thread) {
      context.kernels->ops.pooled_attention.queries(a, begin, end, scratch(thread));
    });
  }

 private:
  PooledArgs args_{};
  NormArgs norm_;
};

}  // namespace

std::unique_ptr<Step> make_pooled_attention(const Op& op, const ParameterSource& source) {
  return std::make_unique<PooledAttentionStep>(op, source);
}

}  // namespace bhvit
