#include "training/table_inl.h"

namespace bhvit::training {
extern const Table<float> kAvx2Floats;
extern const Table<double> kAvx2Doubles;
const Table<float> kAvx2Floats = make_table<float>();
const Table<double> kAvx2Doubles = make_table<double>();
}  // namespace bhvit::training
