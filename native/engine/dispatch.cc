#include "engine/dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace bhvit {

#if !defined(BHVIT_WASM)
extern const KernelTable kScalarKernels;
#endif
#if defined(BHVIT_X86)
extern const KernelTable kSse2Kernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512BwKernels;
extern const KernelTable kAvx512Kernels;
#elif defined(BHVIT_ARM64)
extern const KernelTable kNeonKernels;
#elif defined(BHVIT_WASM)
extern const KernelTable kWasmKernels;
#endif

namespace {

struct Candidate {
  const KernelTable* table;
  bool (*runs_here)();
};

// The fastest first. A probe asks for exactly the features that its file is compiled with.
const Candidate kCandidates[] = {
#if defined(BHVIT_X86)
    {&kAvx512Kernels,
     [] {
       __builtin_cpu_init();
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("popcnt");
     }},
    {&kAvx512BwKernels,
     [] {
       __builtin_cpu_init();
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("popcnt");
     }},
    {&kAvx2Kernels,
     [] {
       __builtin_cpu_init();
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
     }},
    {&kSse2Kernels, [] { return true; }},
#elif defined(BHVIT_ARM64)
    {&kNeonKernels, [] { return true; }},
#elif defined(BHVIT_WASM)
    {&kWasmKernels, [] { return true; }},  // a module with SIMD does not load where there is none
#endif
#if !defined(BHVIT_WASM)  // a second engine would be as large as the first
    {&kScalarKernels, [] { return true; }},
#endif
};

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.runs_here()) names.push_back(candidate.table->name);
  }
  return names;
}

const KernelTable& kernels_for(const std::string& isa) {
  std::string wanted = isa, source;
  if (isa == "auto") {
    const char* override_name = std::getenv("BHVIT_ISA");
    if (override_name && *override_name) {
      wanted = override_name;
      source = " (from BHVIT_ISA)";
    }
  }
  std::string here;
  for (const Candidate& candidate : kCandidates) {
    if (!candidate.runs_here()) continue;
    if (wanted == "auto" || wanted == candidate.table->name) return *candidate.table;
    here += ", " + std::string(candidate.table->name);
  }
  if (wanted.size() > 40) wanted = wanted.substr(0, 40) + "...";
  throw std::invalid_argument("instruction set '" + wanted + "'" + source +
                              " is not one that this machine can run: auto" + here);
}

}  // namespace bhvit
