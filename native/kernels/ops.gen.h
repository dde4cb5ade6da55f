// clang-format off
// Written by native/format/generate.py from the schema in src/bhvit/format; do not edit.

#pragma once

#include "kernels/ops/stem.h"
#include "kernels/ops/mixer.h"
#include "kernels/ops/pooling.h"
#include "kernels/ops/mlp.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/pooled_attention.h"
#include "kernels/ops/downsample.h"
#include "kernels/ops/downsample_float.h"
#include "kernels/ops/head.h"
#include "kernels/ops/lateral.h"
#include "kernels/ops/upsample_add.h"
#include "kernels/ops/segment.h"

namespace bhvit {

struct OpKernels {
  StemKernels stem;
  MixerKernels mixer;
  PoolingKernels pooling;
  MlpKernels mlp;
  AttentionKernels attention;
  PooledAttentionKernels pooled_attention;
  DownsampleKernels downsample;
  DownsampleFloatKernels downsample_float;
  HeadKernels head;
  LateralKernels lateral;
  UpsampleAddKernels upsample_add;
  SegmentKernels segment;
};

}  // namespace bhvit

// What a file of an instruction set fills it with.
#define BHVIT_OP_KERNELS {.stem = stem_kernels(), .mixer = mixer_kernels(), .pooling = pooling_kernels(), .mlp = mlp_kernels(), .attention = attention_kernels(), .pooled_attention = pooled_attention_kernels(), .downsample = downsample_kernels(), .downsample_float = downsample_float_kernels(), .head = head_kernels(), .lateral = lateral_kernels(), .upsample_add = upsample_add_kernels(), .segment = segment_kernels()}
