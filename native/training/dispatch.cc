#include "engine/dispatch.h"

#include "training/dispatch.h"

namespace bhvit::training {

extern const Table<float> kScalarFloats;
extern const Table<double> kScalarDoubles;
#if defined(BHVIT_X86)
extern const Table<float> kAvx2Floats, kAvx512Floats;
extern const Table<double> kAvx2Doubles, kAvx512Doubles;
#endif

void count_differences(const uint32_t* bits, long rows, long words, const uint32_t* tiles, long count,
                       int32_t* counts) {
  static const KernelTable& engine = kernels_for(available_isas().front());
  engine.count_xor(bits, rows, words, tiles, count, counts);
}

std::vector<IsaKernels> available_kernels() {
  std::vector<IsaKernels> found;
#if defined(BHVIT_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx2 && avx512) found.push_back({"avx512", &kAvx512Floats, &kAvx512Doubles});
  if (avx2) found.push_back({"avx2", &kAvx2Floats, &kAvx2Doubles});
#endif
  found.push_back({"scalar", &kScalarFloats, &kScalarDoubles});
  return found;
}

}  // namespace bhvit::training
