// clang-format off
// Written by native/format/generate.py from the schema in src/bhvit/format; do not edit.

#pragma once

#include <cstdint>

// Calls X with the kind of every op.
#define BHVIT_OPS(X) X(stem) X(mixer) X(pooling) X(mlp) X(attention) X(pooled_attention) X(downsample) X(downsample_float) X(head) X(lateral) X(upsample_add) X(segment)

namespace bhvit {

constexpr int64_t kMaxOps = 1024, kMaxGridFloats = 67108864;

}  // namespace bhvit
