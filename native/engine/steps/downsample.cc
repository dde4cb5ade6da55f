// Downsampling by a 2x2 convolution, of signs or of numbers.

#include "engine/step.h"

namespace bhvit {
namespace {

class DownsampleStep : public Step {
 public:
  DownsampleStep(const Op& op, const ParameterSource& source)
      : binary_(op.rule->kind == "downsample"),
        fused_(binary_ && fused(op)),
        normed_(binary_ ? !fused_ : layer_norm(op)) {
    const long channels = op["channels"], outputs = op["out_channels"];
    Parameters p(op, source);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = channels;
    args_.out_channels = outputs;
    args_.position = p.floats("position");
    if (normed_) norm_ = norm_args(op, p);
    if (binary_) {
      args_.norm_scale = p.floats("norm_scale");
      args_.norm_shift = p.floats("norm_shift");
      p.linear(&args_.conv, 1, {"weight", "threshold", "scale", "shift", "weight_scale"}, 4 * channels, outputs);
      args_.conv.threshold = repeat(args_.conv.threshold, channels, p);
      args_.slope = p.floats("slope");
      args_.out_shift = p.floats("out_shift");
    } else {
      args_.weight_float = p.floats("weight");
      const bool layer = layer_norm(op);
      args_.bias = layer ? nullptr : p.floats("bias");
      args_.scale = layer ? p.floats("scale") : nullptr;
      args_.shift = layer ? p.floats("shift") : nullptr;
    }
  }

  void place(Workspace& memory) override {
    args_.x = norm_.x = memory.x();
    if (normed_) args_.x = norm_.n = memory.shared<float>(args_.height * args_.width * args_.channels);
    args_.out = memory.next_x();
    if (fused_) {
      memory.scratch<DownsampleScratch>(args_);
    } else if (binary_) {
      memory.scratch<DownsampleGeneralScratch>(args_);
    }
  }

  void run(const RunContext& context) const override {
    if (normed_) run_norm(context, norm_, args_.height * args_.width);
    context.pool->run(args_.height / 2 * (args_.width / 2), kTokenGrain, [&](long begin, long end, int thread) {
      char* scratch = context.scratch[static_cast<size_t>(thread)];
      if (fused_) {
        context.kernels->downsample(args_, begin, end, scratch);
      } else if (binary_) {
        context.kernels->downsample_general(args_, begin, end, scratch);
      } else {
        context.kernels->downsample_float(args_, begin, end);
      }
    });
  }

 private:
  static const float* repeat(const float* threshold, long channels, Parameters& p) {
    float* repeated = p.take<float>(4 * channels);
    for (long i = 0; i < 4 * channels; i++) repeated[i] = threshold[i % channels];
    return repeated;
  }

  bool binary_, fused_, normed_;  // normed_: the grid is normalised before the kernel reads it
  DownsampleArgs args_{};
  NormArgs norm_{};
};

}  // namespace

std::unique_ptr<Step> make_downsample(const Op& op, const ParameterSource& source) {
  return std::make_unique<DownsampleStep>(op, source);
}
std::unique_ptr<Step> make_downsample_float(const Op& op, const ParameterSource& source) {
  return std::make_unique<DownsampleStep>(op, source);
}

}  // namespace bhvit
