#include "../dispatch.h"

#include "kernels.h"

namespace bhvit::training {

extern const Table<float> kBaseFloats;
extern const Table<double> kBaseDoubles;
#if defined(BHVIT_X86)
extern const Table<float> kAvx2Floats, kAvx512Floats;
extern const Table<double> kAvx2Doubles, kAvx512Doubles;
#endif

namespace {

// 2: AVX-512, 1: AVX2 with fused multiply-add, 0: what every processor of the architecture has.
[[maybe_unused]] int level() {
#if defined(BHVIT_X86)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  const bool avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return avx512 ? 2 : 1;
#else
  return 0;
#endif
}

}  // namespace

void count_differences(const uint32_t* bits, long rows, long words, const uint32_t* tiles, long count,
                       int32_t* counts) {
  static const KernelTable& engine = kernels_for(available_isas().front());
  engine.count_xor(bits, rows, words, tiles, count, counts);
}

template <>
const Table<float>& table<float>() {
#if defined(BHVIT_X86)
  if (level() == 2) return kAvx512Floats;
  if (level() == 1) return kAvx2Floats;
#endif
  return kBaseFloats;
}

template <>
const Table<double>& table<double>() {
#if defined(BHVIT_X86)
  if (level() == 2) return kAvx512Doubles;
  if (level() == 1) return kAvx2Doubles;
#endif
  return kBaseDoubles;
}

}  // namespace bhvit::training
