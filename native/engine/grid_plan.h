// Which memory the grids of a program lie in: a grid is kept until the last op that reads it.

#pragma once

#include <cstddef>
#include <vector>

#include "format/schema.h"

namespace bhvit {

// Grids whose lifetimes do not overlap share a slot.
struct GridPlan {
  struct Place {
    std::vector<size_t> inputs;  // slots of the values that the op reads
    size_t output;               // slot of what it writes; unused for the last op, which writes no grid
    bool copied;                 // it changes its first input in place, which is needed later: it works on a copy
  };

  GridPlan() = default;
  // `in_place` says of each op whether it changes its first input.
  GridPlan(const std::vector<Op>& ops, const std::vector<bool>& in_place);

  std::vector<Place> places;   // of each op
  std::vector<size_t> floats;  // of each slot
};

}  // namespace bhvit
