#include "engine/program.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "engine/dispatch.h"
#include "engine/float_environment.h"

namespace bhvit {

struct Program::Running {
  explicit Running(Program& program) : turn(program.turn_) { program.pool_.restart_after_fork(); }

  const std::lock_guard<Turn> turn;
  const FloatEnvironment defaults;
};

Program::Program(std::string_view file, const ProgramOptions& options)
    : arena_(options.max_memory), pool_(options.threads) {
  context_.kernels = &kernels_for(options.isa);
  load(file, false);
}

Program::Program(std::shared_ptr<const FileBytes> file, const ProgramOptions& options)
    : file_(std::move(file)), arena_(options.max_memory), pool_(options.threads) {
  context_.kernels = &kernels_for(options.isa);
  load(file_->bytes(), true);
}

void Program::load(std::string_view file, bool borrowed) {
  const FloatEnvironment defaults;
  context_.pool = &pool_;
  Model model = read_model(file);
  ops_ = std::move(model.ops);
  class_names_ = std::move(model.class_names);
  preprocess_ = std::move(model.preprocess);
  if (borrowed) header_ = model.header;

  const ParameterSource source{model, borrowed, arena_};
  for (const Op& op : ops_) steps_.push_back(make_step(op, source));
  Workspace counted;
  place(steps_, counted);
  arena_.check(counted.bytes(threads()));
  Workspace memory(counted, arena_, threads());
  place(steps_, memory);
  context_.scratch = memory.scratch_blocks();
  for (size_t i = 1; i < steps_.size(); i++) {
    const NormArgs* norm = steps_[i]->first_norm();
    if (norm && steps_[i - 1]->do_norm({norm->scale, norm->shift, norm->n})) steps_[i]->norm_is_done();
  }
}

long Program::run(const float* images, long count, float* logits, double seconds) {
  using Clock = std::chrono::steady_clock;
  const Running running(*this);
  const Clock::time_point start = Clock::now();
  const std::vector<int64_t> shape = input_shape();
  const int64_t size = shape[0] * shape[1] * shape[2];
  for (long i = 0; i < count; i++) {
    context_.image = images + i * size;
    for (const auto& step : steps_) step->run(context_);
    std::copy_n(steps_.back()->output, classes(), logits + i * classes());
    if (std::chrono::duration<double>(Clock::now() - start).count() > seconds) return i + 1;
  }
  return count;
}

std::vector<Program::Traced> Program::trace(const float* image) {
  const Running running(*this);
  std::vector<Traced> traced;
  context_.image = image;
  for (const auto& step : steps_) {
    step->run(context_);
    std::vector<int64_t> shape = step->op->output();
    const int64_t size = shape[0] * shape[1] * shape[2];
    if (step == steps_.back()) shape = {size};
    traced.push_back({step->op->name, shape, std::vector<float>(step->output, step->output + size)});
  }
  return traced;
}

std::vector<Program::Timing> Program::profile(const float* image, int repeats) {
  using Clock = std::chrono::steady_clock;
  const Running running(*this);
  std::vector<std::vector<double>> times(steps_.size());
  context_.image = image;
  for (int repeat = 0; repeat < repeats; repeat++) {
    Clock::time_point before = Clock::now();
    for (size_t i = 0; i < steps_.size(); i++) {
      steps_[i]->run(context_);
      const Clock::time_point after = Clock::now();
      times[i].push_back(std::chrono::duration<double, std::nano>(after - before).count());
      before = after;
    }
  }
  std::vector<Timing> timings;
  for (size_t i = 0; i < steps_.size(); i++) {
    const auto middle = times[i].begin() + static_cast<long>(times[i].size() / 2);
    std::nth_element(times[i].begin(), middle, times[i].end());
    timings.push_back({steps_[i]->op->name, std::string(steps_[i]->op->rule->kind), *middle});
  }
  return timings;
}

std::vector<int64_t> Program::input_shape() const {
  const Op& stem = ops_.front();
  return {stem["in_chans"], stem["height"] * stem["patch"], stem["width"] * stem["patch"]};
}

}  // namespace bhvit
