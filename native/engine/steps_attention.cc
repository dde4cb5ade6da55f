// Attention: windows with global tokens, and a whole grid with pooled keys.

#include "engine/step_parts.h"

namespace bhvit {
namespace {

constexpr LinearNames kProjectionNames = {"qkv_weight", "in_threshold", "qkv_scale", "qkv_shift", "qkv_weight_scale"};
constexpr LinearNames kOutputNames = {"proj_weight", "proj_threshold", "proj_scale", "proj_shift", "proj_weight_scale"};
constexpr LinearNames kReduceNames = {"reduce_weight", "reduce_threshold", "reduce_scale", "reduce_shift_in",
                                      "reduce_weight_scale"};

Heads make_heads(const Op& op, Parameters& p, long keys) {
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

// Bytes of scratch of Heads (see kernels.h).
size_t key_bytes(const Op& op, long keys) {
  const long depth = op["channels"] / op["heads"], keys16 = round_up(keys, kLanes);
  if (!signs(op)) return block(keys16 * depth * 4);
  return block(keys16 * depth / 8) + block(depth * divide_up(keys, kWordBits) * 4);
}
size_t query_bytes(const Op& op, long keys) {
  const long depth = op["channels"] / op["heads"];
  return block(kMaxBlock * depth / 8) + block(kMaxBlock * round_up(keys, kLanes) * 4) +
         block(kMaxBlock * 3 * divide_up(keys, kWordBits) * 4);
}

// The parameters that both attentions have.
template <class Args>
void fill(Args& args, const Op& op, Parameters& p) {
  const long channels = op["channels"];
  p.linear(args.qkv, kProjections, kProjectionNames, channels, channels);
  p.linear(&args.proj, 1, kOutputNames, channels, channels);
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

class AttentionStep : public Step {
 public:
  AttentionStep(const Op& op, Plan& plan) : fused_(fused(op)) {
    const Sizes sizes(op);
    const long channels = op["channels"];
    Parameters p(op, plan);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = channels;
    args_.window_h = op["window_h"];
    args_.window_w = op["window_w"];
    args_.windows = sizes.windows;
    args_.heads = make_heads(op, p, sizes.keys);
    fill(args_, op, p);
    args_.pool_max = p.floats("pool_max");
    args_.pool_avg = p.floats("pool_avg");
    args_.token_scale = p.floats("token_scale");
    args_.token_shift = p.floats("token_shift");
    args_.mix_local = p.floats("mix_local");
    args_.mix_global = p.floats("mix_global");
    Shared shared(plan);
    // The order lets an MLP before it leave `n`, whose own lies where `context` does, and lets the last kernel leave the
    // n of an MLP after it, token by token, where it has just read the context.
    args_.context = shared.take<float>(sizes.rows * channels);
    args_.n = shared.take<float>(sizes.rows * channels);
    args_.pooled = shared.take<float>(sizes.windows * channels);
    if (signs(op)) {
      args_.signs = shared.take<uint16_t>(kProjections * sizes.rows * channels / kLanes);
    } else {
      args_.values = shared.take<float>(kProjections * sizes.rows * channels);
    }
    if (fused_) {
      args_.globals = shared.take<float>(sizes.windows * sizes.windows * channels);
      args_.globals_stride = sizes.windows * channels;
    } else {
      args_.products = shared.take<float>(sizes.windows * sizes.keys * channels);
      args_.globals = args_.products + args_.window_h * args_.window_w * channels;
      args_.globals_stride = sizes.keys * channels;
    }
    args_.x = plan.x();
    norm_ = norm_args(op, p, plan.x(), args_.n);
  }

  static Needs needs(const Op& op) {
    const Sizes sizes(op);
    const long channels = op["channels"];
    const size_t states = block(kProjections * sizes.rows * channels * (signs(op) ? 4 : 128) / 32);
    const size_t shared = 2 * block(sizes.rows * channels * 4) + block(sizes.windows * channels * 4) + states +
                          block(sizes.windows * (fused(op) ? sizes.windows : sizes.keys) * channels * 4);
    const size_t project = block(kMaxBlock * channels * 4) + block(kProjections * kMaxBlock * channels / 8);
    const size_t output = block(kMaxBlock * channels * 4) + linear_bytes(channels, channels);
    const size_t heads = key_bytes(op, sizes.keys) + query_bytes(op, sizes.keys) +
                         block(divide_up(sizes.keys, kWordBits) * kWordBits * 4);
    return {0, shared, std::max({project, output, heads})};
  }

  void run(const Machine& m) const override {
    const AttentionArgs& a = args_;
    const long tokens = a.height * a.width;
    const auto scratch = [&](int thread) { return m.scratch[static_cast<size_t>(thread)]; };
    if (!normed_) run_norm(m, norm_, tokens);
    m.pool->run(a.windows, 1, [&](long begin, long end, int) { m.kernels->attention_pool(a, begin, end); });
    m.pool->run(tokens + a.windows, kTokenGrain, [&](long begin, long end, int thread) {
      (fused_ ? m.kernels->attention_project : m.kernels->attention_project_general)(a, begin, end, scratch(thread));
    });
    m.pool->run(a.windows * a.heads.heads, 1, [&](long begin, long end, int thread) {
      m.kernels->attention_heads(a, begin, end, scratch(thread));
    });
    if (!fused_) {
      m.pool->run(a.windows * a.heads.keys, kTokenGrain, [&](long begin, long end, int) {
        m.kernels->attention_context(a, begin, end);
      });
    }
    m.pool->run(a.windows, 1, [&](long begin, long end, int) { m.kernels->attention_average(a, begin, end); });
    m.pool->run(tokens, kTokenGrain, [&](long begin, long end, int thread) {
      m.kernels->attention_output(a, begin, end, scratch(thread));
    });
  }

  const NormArgs* first_norm() const override { return norm_.layer ? nullptr : &norm_; }
  void norm_is_done() override { normed_ = true; }
  bool do_norm(const NextNorm& next) override {
    args_.next = next;
    return true;
  }

 private:
  struct Sizes {
    long windows, keys, rows;
    explicit Sizes(const Op& op)
        : windows(op["height"] / op["window_h"] * (op["width"] / op["window_w"])),
          keys(op["window_h"] * op["window_w"] + windows),
          rows(op["height"] * op["width"] + windows) {}
  };

  bool fused_, normed_ = false;  // normed_: the step before left n
  AttentionArgs args_{};
  NormArgs norm_;
};

class PooledAttentionStep : public Step {
 public:
  PooledAttentionStep(const Op& op, Plan& plan) {
    const long channels = op["channels"], tokens = op["height"] * op["width"], keys = key_count(op);
    Parameters p(op, plan);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = channels;
    args_.key_pool = op["key_pool"];
    args_.heads = make_heads(op, p, keys);
    fill(args_, op, p);
    if (args_.key_pool > 1) {
      p.linear(&args_.reduce, 1, kReduceNames, channels, channels);
      args_.reduce_slope = p.floats("reduce_slope");
      args_.reduce_shift = p.floats("reduce_shift");
    }
    Shared shared(plan);
    float* n = shared.take<float>(tokens * channels);
    args_.n = n;
    args_.key_rest = shared.take<float>(keys * channels);
    args_.value_rest = shared.take<float>(keys * channels);
    const Heads& h = args_.heads;
    const long keys16 = round_up(keys, kLanes);
    if (signs(op)) {
      args_.key_signs = shared.take<uint16_t>(keys * channels / kLanes);
      args_.value_signs = shared.take<uint16_t>(keys * channels / kLanes);
      args_.key_tiles = shared.take<uint32_t>(keys16 * channels / kWordBits);
      args_.value_tiles = shared.take<uint32_t>(channels * h.key_words);
    } else {
      args_.key_values = shared.take<float>(keys * channels);
      args_.value_values = shared.take<float>(keys * channels);
      args_.key_tiles_float = shared.take<float>(keys16 * channels);
    }
    args_.x = plan.x();
    norm_ = norm_args(op, p, plan.x(), n);
  }

  static Needs needs(const Op& op) {
    const long channels = op["channels"], keys = key_count(op), keys16 = round_up(keys, kLanes);
    const size_t states = signs(op) ? 2 * block(keys * channels / 8) + block(keys16 * channels / 8) +
                                          block(channels * divide_up(keys, kWordBits) * 4)
                                    : 2 * block(keys * channels * 4) + block(keys16 * channels * 4);
    const size_t row = block(kMaxBlock * channels * 4), layer = linear_bytes(channels, channels);
    return {0, block(op["height"] * op["width"] * channels * 4) + 2 * block(keys * channels * 4) + states,
            std::max(2 * row, 3 * row + block(kMaxBlock * channels / 8) + query_bytes(op, keys)) + layer};
  }

  void run(const Machine& m) const override {
    const PooledArgs& a = args_;
    const long tokens = a.height * a.width;
    const auto scratch = [&](int thread) { return m.scratch[static_cast<size_t>(thread)]; };
    run_norm(m, norm_, tokens);
    m.pool->run(a.heads.keys, kTokenGrain, [&](long begin, long end, int thread) {
      m.kernels->pooled_keys(a, begin, end, scratch(thread));
    });
    m.pool->run(a.heads.heads, 1, [&](long begin, long end, int) { m.kernels->pooled_tiles(a, begin, end); });
    m.pool->run(tokens, kTokenGrain, [&](long begin, long end, int thread) {
      m.kernels->pooled_queries(a, begin, end, scratch(thread));
    });
  }

 private:
  static long key_count(const Op& op) {
    return op["height"] / op["key_pool"] * (op["width"] / op["key_pool"]);
  }

  PooledArgs args_{};
  NormArgs norm_;
};

}  // namespace

std::unique_ptr<Step> make_attention(const Op& op, Plan& plan) { return std::make_unique<AttentionStep>(op, plan); }
std::unique_ptr<Step> make_pooled_attention(const Op& op, Plan& plan) {
  return std::make_unique<PooledAttentionStep>(op, plan);
}
Needs attention_needs(const Op& op) { return AttentionStep::needs(op); }
Needs pooled_attention_needs(const Op& op) { return PooledAttentionStep::needs(op); }

}  // namespace bhvit
