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
  Table<T> table{.statistics = &statistics<T>,
                 .normalise = &normalise<T>,
                 .normalise_backward = &normalise_backward<T>,
                 .signs = &signs<T>,
                 .pack_bits = &pack_bits<T>,
                 .unpack_bits = &unpack_bits<T>,
                 .binary_linear = &binary_linear<T>,
                 .bit_columns = &bit_columns,
                 .sign_products = nullptr,
                 .binarise = &binarise<T>,
                 .weight_bits = &weight_bits<T>,
                 .binarise_backward = &binarise_backward<T>,
                 .signs_backward = &signs_backward<T>,
                 .unit = &unit<T>,
                 .unit_backward = &unit_backward<T>,
                 .branches = &branches<T>,
                 .branches_backward = &branches_backward<T>,
                 .conv = &conv<T>,
                 .conv_weights = &conv_weights<T>,
                 .binary_conv = &binary_conv<T>,
                 .sign_conv = nullptr,
                 .sign_conv_weights = nullptr,
                 .cross = &cross<T>,
                 .cross_backward = &cross_backward<T>,
                 .attention = &attention<T>,
                 .attention_backward = &attention_backward<T>};
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
