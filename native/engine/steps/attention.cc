// Attention in windows with global tokens.

#include "engine/steps/attention_parts.h"

namespace bhvit {
namespace {

class AttentionStep : public Step {
 public:
  AttentionStep(const Op& op, const ParameterSource& source) : fused_(fused(op)) {
    Parameters p(op, source);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = op["channels"];
    args_.window_h = op["window_h"];
    args_.window_w = op["window_w"];
    args_.windows = args_.height / args_.window_h * (args_.width / args_.window_w);
    args_.heads = make_heads(op, p, args_.window_h * args_.window_w + args_.windows);
    fill_projections(args_, op, p);
    args_.pool_max = p.floats("pool_max");
    args_.pool_avg = p.floats("pool_avg");
    args_.token_scale = p.floats("token_scale");
    args_.token_shift = p.floats("token_shift");
    args_.mix_local = p.floats("mix_local");
    args_.mix_global = p.floats("mix_global");
    norm_ = norm_args(op, p);
  }

  void place(Workspace& memory) override {
    const Sizes sizes(args_);
    const long channels = args_.channels;
    // The order lets an MLP before it leave `n`, whose own lies where `context` does, and lets the last kernel leave the
    // n of an MLP after it, token by token, where it has just read the context.
    args_.context = memory.shared<float>(sizes.rows * channels);
    args_.n = norm_.n = memory.shared<float>(sizes.rows * channels);
    args_.pooled = memory.shared<float>(sizes.windows * channels);
    if (args_.heads.planes) {
      args_.signs = memory.shared<uint16_t>(kProjections * sizes.rows * channels / kLanes);
    } else {
      args_.values = memory.shared<float>(kProjections * sizes.rows * channels);
    }
    if (fused_) {
      args_.globals = memory.shared<float>(sizes.windows * sizes.windows * channels);
      args_.globals_stride = args_.windows * channels;
      memory.scratch<ProjectScratch>(args_);
    } else {
      args_.products = memory.shared<float>(sizes.windows * sizes.keys * channels);
      args_.globals = args_.products ? args_.products + args_.window_h * args_.window_w * channels : nullptr;
      args_.globals_stride = args_.heads.keys * channels;
      memory.scratch<ProjectGeneralScratch>(args_);
    }
    memory.scratch<WindowScratch>(args_);
    memory.scratch<OutputScratch>(args_);
    norm_.x = args_.x = memory.output();
  }

  void run(const RunContext& context) const override {
    const AttentionArgs& a = args_;
    const long tokens = a.height * a.width;
    const auto scratch = [&](int thread) { return context.scratch[static_cast<size_t>(thread)]; };
    if (!normed_) run_norm(context, norm_, tokens);
    context.pool->run(a.windows, 1,
                      [&](long begin, long end, int) { context.kernels->ops.attention.pool(a, begin, end); });
    context.pool->run(tokens + a.windows, kTokenGrain, [&](long begin, long end, int thread) {
      (fused_ ? context.kernels->ops.attention.project : context.kernels->ops.attention.project_general)(
          a, begin, end, scratch(thread));
    });
    context.pool->run(a.windows * a.heads.heads, 1, [&](long begin, long end, int thread) {
      context.kernels->ops.attention.heads(a, begin, end, scratch(thread));
    });
    if (!fused_) {
      context.pool->run(a.windows * a.heads.keys, kTokenGrain,
                        [&](long begin, long end, int) { context.kernels->ops.attention.context(a, begin, end); });
    }
    context.pool->run(a.windows, 1,
                      [&](long begin, long end, int) { context.kernels->ops.attention.average(a, begin, end); });
    context.pool->run(tokens, kTokenGrain, [&](long begin, long end, int thread) {
      context.kernels->ops.attention.output(a, begin, end, scratch(thread));
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
    int64_t windows, keys, rows;  // their products may be beyond 32 bits, which `long` has in WebAssembly
    explicit Sizes(const AttentionArgs& a)
        : windows(a.windows), keys(a.heads.keys), rows(a.height * a.width + a.windows) {}
  };

  bool fused_, normed_ = false;  // normed_: the step before left n
  AttentionArgs args_{};
  NormArgs norm_;
};

}  // namespace

std::unique_ptr<Step> make_attention(const Op& op, const ParameterSource& source) {
  return std::make_unique<AttentionStep>(op, source);
}

}  // namespace bhvit
