// The token mixer of three dilated convolutions.

#include <bit>

#include "engine/step.h"

namespace bhvit {
namespace {

class MixerStep : public Step {
 public:
  MixerStep(const Op& op, const ParameterSource& source) : binary_(binary(op)), normed_(!fused(op)) {
    Parameters p(op, source);
    args_.height = op["height"];
    args_.width = op["width"];
    args_.channels = op["channels"];
    args_.groups = op["groups"];
    const long channels = args_.channels, inputs = 9 * channels / args_.groups;
    args_.words = divide_up(inputs, kWordBits);
    args_.plane_stride = args_.width + 2 * kBorder;
    args_.plane_size = (args_.height + 2 * kBorder) * args_.plane_stride;
    args_.row_stride = round_up(args_.width, kLanes);
    args_.out_scale = p.floats("out_scale");
    args_.out_shift = p.floats("out_shift");
    args_.sum_shift = layer_norm(op) ? p.floats("sum_shift") : nullptr;
    args_.scale2 = p.scale2("scale");
    args_.shift = p.floats("shift");
    args_.slope = p.floats("slope");
    args_.signs = signs(op);
    if (normed_) {
      norm_ = norm_args(op, p);
      args_.norm_scale = p.constant(args_.channels, 1.0f);
      args_.norm_shift = p.constant(args_.channels, 0.0f);
    } else {
      args_.norm_scale = p.floats("norm_scale");
      args_.norm_shift = p.floats("norm_shift");
    }
    if (binary_) {
      args_.weight = inputs % kWordBits ? clear_tails(p.mutable_bits("weight"), inputs) : p.bits("weight");
      args_.start = make_starts(p);
      args_.weight = p.expanded(args_.weight, kDilations * channels * args_.words);
    } else {
      args_.weight_float = p.weight_floats("weight", inputs);
    }
  }

  void place(Workspace& memory) override {
    const long height = args_.height, width = args_.width, channels = args_.channels;
    args_.source = norm_.x = args_.x = memory.output();
    if (normed_) args_.source = norm_.n = memory.shared<float>(height * width * channels);
    if (binary_) {
      // Rows are read in whole vectors, the last one past the end.
      const long size = channels / kLanes * args_.plane_size + kLanes;
      args_.planes = memory.bordered<uint16_t>(height, width, channels, size);
    } else {
      args_.values = memory.bordered<float>(height, width, channels, channels * args_.plane_size);
    }
    memory.scratch<MixerScratch>(args_);
  }

  void run(const RunContext& context) const override {
    if (normed_) run_norm(context, norm_, args_.height * args_.width);
    context.pool->run(args_.height, 1, [&](long begin, long end, int) {
      (binary_ ? context.kernels->ops.mixer.bits : context.kernels->ops.mixer.values)(args_, begin, end);
    });
    context.pool->run(args_.height, 1, [&](long begin, long end, int thread) {
      (binary_ ? context.kernels->ops.mixer.conv : context.kernels->ops.mixer.conv_float)(
          args_, begin, end, context.scratch[static_cast<size_t>(thread)]);
    });
  }

  // The next op's n lies where this one keeps its own, if it needs one: only without is there room.
  bool do_norm(const NextNorm& next) override {
    if (normed_) return false;
    args_.next = next;
    return true;
  }

 private:
  // Bits past a weight's last input have no meaning; here they must be zero, as those of the inputs are.
  const uint32_t* clear_tails(uint32_t* weight, long inputs) const {
    const uint32_t kept = (uint32_t{1} << inputs % kWordBits) - 1;
    for (long tile = 0; tile < kDilations * args_.channels / kLanes; tile++) {
      for (long l = 0; l < kLanes; l++) weight[((tile + 1) * args_.words - 1) * kLanes + l] &= kept;
    }
    return weight;
  }

  const int32_t* make_starts(Parameters& p) const {
    const long channels = args_.channels, inputs = channels / args_.groups, halves = inputs / kLanes;
    int32_t* starts = p.take<int32_t>(kDilations * kBorderClasses * channels);
    for (long d = 0; d < kDilations; d++) {
      for (long o = 0; o < channels; o++) {
        const uint32_t* weight =
            args_.weight + (d * channels / kLanes + o / kLanes) * args_.words * kLanes + o % kLanes;
        long ones[9] = {};  // set weight bits of each tap
        for (long q = 0; q < 9 * halves; q++) {
          ones[q / halves] += std::popcount(static_cast<uint16_t>(weight[q / 2 * kLanes] >> (q % 2 * 16)));
        }
        for (long c = 0; c < kBorderClasses; c++) {
          const long row_class = c / 4, column_class = c % 4;
          long correction = 0;
          for (long tap = 0; tap < 9; tap++) {
            const bool absent = (tap / 3 == 0 && (row_class & 1)) || (tap / 3 == 2 && (row_class & 2)) ||
                                (tap % 3 == 0 && (column_class & 1)) || (tap % 3 == 2 && (column_class & 2));
            if (absent) correction += 2 * ones[tap] - inputs;
          }
          starts[(d * kBorderClasses + c) * channels + o] = static_cast<int32_t>(-(9 * inputs + correction) / 2);
        }
      }
    }
    return starts;
  }

  bool binary_, normed_;
  MixerArgs args_{};
  NormArgs norm_{};
};

}  // namespace

std::unique_ptr<Step> make_mixer(const Op& op, const ParameterSource& source) {
  return std::make_unique<MixerStep>(op, source);
}

}  // namespace bhvit
