// The MLP with residuals and the cross of nine taps.

#include <numeric>

#include "engine/step.h"

namespace bhvit {
namespace {

// The neighbours of i: i-1, i+1, i-2, i+2, in the order of arithmetic.TAPS; cyclic, or -1 beyond the edge.
const int32_t* make_wraps(long edge, bool cyclic, Parameters& p) {
  int32_t* wraps = p.take<int32_t>(4 * edge);
  constexpr long kOffsets[4] = {-1, 1, -2, 2};
  for (long k = 0; k < 4; k++) {
    for (long i = 0; i < edge; i++) {
      const long at = i + kOffsets[k], wrapped = (at % edge + edge) % edge;
      wraps[k * edge + i] = static_cast<int32_t>(cyclic || at == wrapped ? wrapped : -1);
    }
  }
  return wraps;
}

class MlpStep : public Step {
 public:
  MlpStep(const Op& op, const ParameterSource& source) : fused_(fused(op)) {
    const long channels = op["channels"], hidden = op["hidden"];
    const bool cyclic = op.is("border", "cyclic");
    Parameters p(op, source);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = channels;
    args_.hidden = hidden;
    args_.period = std::lcm(channels * channels / hidden, kLanes);
    p.linear(&args_.first, 1, {"weight1", "threshold1", "scale1", "shift1", "weight_scale1"}, channels, hidden);
    p.linear(&args_.second, 1, {"weight2", "threshold2", "scale2", "shift2", "weight_scale2"}, hidden, channels);
    args_.slope1 = p.floats("slope1");
    args_.slope2 = p.floats("slope2");
    args_.out_scale = p.floats("out_scale");
    args_.out_shift = p.floats("out_shift");
    args_.taps = p.floats("taps");
    args_.wrap_rows = make_wraps(op["height"], cyclic, p);
    args_.wrap_columns = make_wraps(op["width"], cyclic, p);
    args_.zeros = cyclic ? nullptr : p.constant(channels, 0.0f);
    norm_ = norm_args(op, p);
  }

  void place(Workspace& memory) override {
    norm_.n = memory.shared<float>(args_.height * args_.width * args_.channels);
    norm_.x = args_.x = memory.output();
    args_.n = norm_.n;
    if (fused_) {
      memory.scratch<MlpScratch>(args_);
    } else {
      memory.scratch<MlpGeneralScratch>(args_);
    }
  }

  void run(const RunContext& context) const override {
    const long tokens = args_.height * args_.width;
    if (!normed_) run_norm(context, norm_, tokens);
    context.pool->run(tokens, kTokenGrain, [&](long begin, long end, int thread) {
      (fused_ ? context.kernels->ops.mlp.fused : context.kernels->ops.mlp.general)(
          args_, begin, end, context.scratch[static_cast<size_t>(thread)]);
    });
  }

  const NormArgs* first_norm() const override { return norm_.layer ? nullptr : &norm_; }
  void norm_is_done() override { normed_ = true; }
  bool do_norm(const NextNorm& next) override {
    if (next.n == args_.n) return false;  // another MLP's: this one's is still being read when the first tokens leave
    args_.next = next;
    return true;
  }

 private:
  bool fused_, normed_ = false;  // normed_: the step before left n
  MlpArgs args_{};
  NormArgs norm_;
};

}  // namespace

std::unique_ptr<Step> make_mlp(const Op& op, const ParameterSource& source) {
  return std::make_unique<MlpStep>(op, source);
}

}  // namespace bhvit
