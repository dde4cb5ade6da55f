#include "engine/program.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/dispatch.h"

namespace bhvit {

Program::Program(std::string_view file, int threads, const std::string& isa) : pool_(threads) {
  machine_.kernels = &kernels_for(isa);
  load(file, false);
}

Program::Program(std::unique_ptr<FileBytes> file, int threads, const std::string& isa)
    : file_(std::move(file)), pool_(threads) {
  machine_.kernels = &kernels_for(isa);
  load(file_->bytes(), true);
}

void Program::load(std::string_view file, bool lasting) {
  machine_.pool = &pool_;
  Model model = read_model(file);
  ops_ = std::move(model.ops);
  class_names_ = std::move(model.class_names);
  preprocess_ = std::move(model.preprocess);
  if (lasting) header_ = model.header;

  const Needs needs = needs_of(ops_);
  Plan plan;
  plan.model = &model;
  plan.lasting = lasting;
  plan.arena = &arena_;
  for (float*& grid : plan.grids) grid = arena_.take<float>(needs.grid_floats);
  plan.shared = arena_.take<char>(needs.shared);
  for (int i = 0; i < threads(); i++) machine_.scratch.push_back(arena_.take<char>(needs.scratch));
  for (const Op& op : ops_) {
    steps_.push_back(make_step(op, plan));
    if (steps_.size() == 1) continue;
    const NormArgs* norm = steps_.back()->first_norm();
    if (norm && steps_[steps_.size() - 2]->do_norm({norm->scale, norm->shift, norm->n})) steps_.back()->norm_is_done();
  }
}

void Program::run(const float* images, long count, float* logits) {
  const std::lock_guard<std::mutex> turn(running_);
  const std::vector<int64_t> shape = input_shape();
  const int64_t size = shape[0] * shape[1] * shape[2];
  for (long i = 0; i < count; i++) {
    machine_.image = images + i * size;
    for (const auto& step : steps_) step->run(machine_);
    std::copy_n(steps_.back()->output, classes(), logits + i * classes());
  }
}

std::vector<Program::Traced> Program::trace(const float* image) {
  const std::lock_guard<std::mutex> turn(running_);
  std::vector<Traced> traced;
  machine_.image = image;
  for (const auto& step : steps_) {
    step->run(machine_);
    std::vector<int64_t> shape = step->op->output();
    const int64_t size = shape[0] * shape[1] * shape[2];
    if (step == steps_.back()) shape = {size};
    traced.push_back({step->op->name, shape, std::vector<float>(step->output, step->output + size)});
  }
  return traced;
}

std::vector<Program::Timing> Program::profile(const float* image, int repeats) {
  using Clock = std::chrono::steady_clock;
  const std::lock_guard<std::mutex> turn(running_);
  std::vector<std::vector<double>> times(steps_.size());
  machine_.image = image;
  for (int repeat = 0; repeat < repeats; repeat++) {
    Clock::time_point before = Clock::now();
    for (size_t i = 0; i < steps_.size(); i++) {
      steps_[i]->run(machine_);
      const Clock::time_point after = Clock::now();
      times[i].push_back(std::chrono::duration<double, std::nano>(after - before).count());
      before = after;
    }
  }
  std::vector<Timing> timings;
  for (size_t i = 0; i < steps_.size(); i++) {
    const auto middle = times[i].begin() + static_cast<long>(times[i].size() / 2);
    std::nth_element(times[i].begin(), middle, times[i].end());
    timings.push_back({steps_[i]->op->name, steps_[i]->op->rule->kind, *middle});
  }
  return timings;
}

std::vector<int64_t> Program::input_shape() const {
  const Op& stem = ops_.front();
  return {stem["in_chans"], stem["height"] * stem["patch"], stem["width"] * stem["patch"]};
}

}  // namespace bhvit
