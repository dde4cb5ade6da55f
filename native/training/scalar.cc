#include "training/table_inl.h"

namespace bhvit::training {
extern const Table<float> kBaseFloats;
extern const Table<double> kBaseDoubles;
const Table<float> kBaseFloats = make_table<float>();
const Table<double> kBaseDoubles = make_table<double>();
}  // namespace bhvit::training
