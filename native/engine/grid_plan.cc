#include "engine/grid_plan.h"

#include <algorithm>

namespace bhvit {
namespace {

size_t grid_floats(const Op& op) {
  const std::vector<int64_t> out = op.output();
  return static_cast<size_t>(out[0] * out[1] * out[2]);
}

// The smallest free slot that holds so many floats, else the largest one, else a new one; enlarged to hold them.
size_t take_slot(std::vector<size_t>& floats, std::vector<bool>& free, size_t needed) {
  size_t best = floats.size();
  for (size_t slot = 0; slot < floats.size(); slot++) {
    if (!free[slot]) continue;
    const bool fits = floats[slot] >= needed;
    if (best == floats.size() || (fits ? floats[best] < needed || floats[slot] < floats[best]
                                       : floats[best] < needed && floats[slot] > floats[best])) {
      best = slot;
    }
  }
  if (best == floats.size()) {
    floats.push_back(0);
    free.push_back(false);
  }
  free[best] = false;
  floats[best] = std::max(floats[best], needed);
  return best;
}

}  // namespace

GridPlan::GridPlan(const std::vector<Op>& ops, const std::vector<bool>& in_place) {
  std::vector<size_t> last_read(ops.size()), slot_of(ops.size());
  for (size_t i = 0; i < ops.size(); i++) {
    for (const size_t source : ops[i].reads) last_read[source] = i;
  }
  std::vector<bool> free;
  for (size_t i = 0; i < ops.size(); i++) {
    Place place{{}, 0, false};
    for (const size_t source : ops[i].reads) place.inputs.push_back(slot_of[source]);
    if (i + 1 < ops.size()) {
      const bool changes = in_place[i] && !place.inputs.empty();
      const bool needed = changes && last_read[ops[i].reads[0]] != i;
      place.copied = needed;
      place.output = changes && !needed ? place.inputs[0] : take_slot(floats, free, grid_floats(ops[i]));
      slot_of[i] = place.output;
    }
    for (size_t k = 0; k < place.inputs.size(); k++) {
      if (last_read[ops[i].reads[k]] == i && (i + 1 == ops.size() || place.inputs[k] != place.output)) {
        free[place.inputs[k]] = true;
      }
    }
    places.push_back(place);
  }
}

}  // namespace bhvit
