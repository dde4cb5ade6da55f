#include "training/table_inl.h"

namespace bhvit::training {
extern const Table<float> kAvx512Floats;
extern const Table<double> kAvx512Doubles;
const Table<float> kAvx512Floats = make_table<float>();
const Table<double> kAvx512Doubles = make_table<double>();
}  // namespace bhvit::training
