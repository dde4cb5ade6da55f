// The memory that the steps of a program work in.

#pragma once

#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include "engine/grid_plan.h"
#include "format/memory.h"
#include "kernels/scratch.h"

namespace bhvit {

// Steps take their memory twice: first from a workspace that only counts, whose pointers are null, then from one made
// with these counts.
class Workspace {
 public:
  explicit Workspace(const GridPlan& plan) : plan_(plan), grids_(plan.floats.size()) {}
  Workspace(const Workspace& counted, Arena& arena, int threads)
      : arena_(&arena), plan_(counted.plan_), grids_(counted.grids_.size()) {
    for (size_t slot = 0; slot < grids_.size(); slot++) grids_[slot] = arena.take<float>(plan_.floats[slot]);
    shared_ = arena.take<char>(counted.shared_bytes_);
    for (int i = 0; i < threads; i++) scratch_.push_back(arena.take<char>(counted.scratch_bytes_));
  }

  // What a workspace made with these counts takes from the arena.
  uint64_t bytes(int threads) const {
    uint64_t grids = 0;
    for (const size_t floats : plan_.floats) grids += Arena::block_bytes(floats, sizeof(float));
    return grids + Arena::block_bytes(shared_bytes_, 1) + bordered_bytes_ +
           static_cast<uint64_t>(threads) * Arena::block_bytes(scratch_bytes_, 1);
  }

  // Goes on to op number `index`, which the calls below refer to.
  void start_step(size_t index) {
    place_ = &plan_.places[index];
    shared_used_ = 0;
  }
  // A value that the op reads, and the grid that it writes.
  const float* input(size_t number) const { return grids_[place_->inputs[number]]; }
  float* output() const { return grids_[place_->output]; }

  // Memory that all threads share until the step is over. Counted in 64 bits, as in Arena::block_bytes.
  template <class T>
  T* shared(int64_t count) {
    T* part = shared_ ? reinterpret_cast<T*>(shared_ + shared_used_) : nullptr;
    const uint64_t bytes = static_cast<uint64_t>(count) * sizeof(T);
    shared_used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    shared_bytes_ = std::max(shared_bytes_, shared_used_);
    return part;
  }

  // A grid within zeros: one for all steps of its size, which write the same part of it.
  template <class T>
  T* bordered(long height, long width, long channels, long count) {
    const auto [found, added] = bordered_.try_emplace({height, width, channels, sizeof(T)}, nullptr);
    if (added) bordered_bytes_ += Arena::block_bytes(static_cast<size_t>(count), sizeof(T));
    if (added && arena_) found->second = arena_->take<T>(static_cast<size_t>(count));
    return static_cast<T*>(found->second);
  }

  // Scratch of a thread in the given layout of kernels/scratch.h.
  template <class Layout, class Args>
  void scratch(const Args& args) {
    Scratch counting;
    [[maybe_unused]] const Layout layout(counting, args);
    scratch_bytes_ = std::max(scratch_bytes_, static_cast<uint64_t>(counting.used));
  }

  const std::vector<char*>& scratch_blocks() const { return scratch_; }

 private:
  Arena* arena_ = nullptr;
  const GridPlan& plan_;
  const GridPlan::Place* place_ = nullptr;
  std::vector<float*> grids_;  // of each slot
  char* shared_ = nullptr;
  std::vector<char*> scratch_;  // one block a thread
  uint64_t shared_used_ = 0, shared_bytes_ = 0, scratch_bytes_ = 0, bordered_bytes_ = 0;
  std::map<std::tuple<long, long, long, size_t>, void*> bordered_;
};

}  // namespace bhvit
