// Included last by the file of an instruction set: its functions as a table.

#include "training/attention_inl.h"
#include "training/binary_grid_inl.h"
#include "training/sign_grid_inl.h"
#include "training/unit_inl.h"
#include "training/weights_inl.h"

namespace bhvit::training {
namespace {

template <class T>
constexpr Table<T> make_table() {
  Table<T> table{&statistics<T>, &normalise<T>, &normalise_backward<T>, &signs<T>,
                 &bits<T>, &numbers<T>, &binary_linear<T>, &bit_columns,
                 nullptr, &binarise<T>, &weight_bits<T>, &binarise_backward<T>,
                 &signs_backward<T>, &unit<T>, &unit_backward<T>, &branches<T>,
                 &branches_backward<T>, &conv<T>, &conv_weights<T>, &binary_conv<T>,
                 nullptr, nullptr, &cross<T>, &cross_backward<T>,
                 &attention<T>, &attention_backward<T>};
#if defined(BHVIT_TABLES)
  if constexpr (sizeof(T) == sizeof(float)) {
    table.sign_products = &sign_products;
    table.sign_conv = &sign_conv;
    table.sign_conv_weights = &sign_conv_weights;
  }
#endif
  return table;
}

}  // namespace
}  // namespace bhvit::training
