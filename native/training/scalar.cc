#include "training/table_inl.h"

namespace bhvit::training {
extern const Table<float> kScalarFloats;
extern const Table<double> kScalarDoubles;
const Table<float> kScalarFloats = make_table<float>();
const Table<double> kScalarDoubles = make_table<double>();
}  // namespace bhvit::training
