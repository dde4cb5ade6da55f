// Included last by the file of an instruction set: its functions as a table.

#include "grid_inl.h"
#include "unit_inl.h"
#include "weights_inl.h"

namespace bhvit::training {
namespace {

template <class T>
constexpr Table<T> make_table() {
  return {&moments<T>, &normalise<T>, &normalise_backward<T>, &signs<T>,
          &bits<T>, &numbers<T>, &binary_linear<T>, &binarise<T>,
          &binarise_backward<T>, &signs_backward<T>, &unit<T>, &unit_backward<T>,
          &branches<T>, &branches_backward<T>, &conv<T>, &conv_weights<T>,
          &cross<T>, &cross_backward<T>};
}

}  // namespace
}  // namespace bhvit::training
