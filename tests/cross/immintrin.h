// Stands in for the compiler's header when AVX-512 kernels are built for a machine without AVX-512: SIMDe's
// portable functions under the intrinsics' names, and the two that it lacks.
// None of SIMDe's own use of this machine's vectors: its headers would include this one.

#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#define SIMDE_NO_NATIVE
#include <simde/x86/avx512.h>

// Of 0.7.4: an alias that is missing, and one that wants four arguments.
#if !defined(__mmask16)
typedef simde__mmask16 __mmask16;
#endif
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 simde_mm512_madd_epi16

static inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* from) {
  float lanes[16] = {};
  for (int l = 0; l < 16; l++) {
    if (mask >> l & 1) lanes[l] = static_cast<const float*>(from)[l];
  }
  return _mm512_loadu_ps(lanes);
}

static inline __m512 _mm512_mask_i32gather_ps(__m512 source, __mmask16 mask, __m512i index, const void* from,
                                              int scale) {
  float lanes[16];
  int32_t at[16];
  _mm512_storeu_ps(lanes, source);
  _mm512_storeu_si512(at, index);
  for (int l = 0; l < 16; l++) {
    if (mask >> l & 1) __builtin_memcpy(&lanes[l], static_cast<const char*>(from) + long{at[l]} * scale, 4);
  }
  return _mm512_loadu_ps(lanes);
}
