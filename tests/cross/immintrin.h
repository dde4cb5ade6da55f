// Stands in for the compiler's header when AVX-512 kernels are built for a machine without AVX-512: SIMDe's
// portable functions under the intrinsics' names, and those that it lacks.
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

static inline __m512 _mm512_cvtph_ps(__m256i halves) {
  uint16_t half[16];
  uint32_t bits[16];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(half), halves);
  for (int l = 0; l < 16; l++) {
    const uint32_t magnitude = half[l] & 0x7fffu, sign = (half[l] & 0x8000u) << 16;
    if (magnitude >= 0x400) {
      bits[l] = sign | ((magnitude << 13) + (112u << 23));
    } else {  // subnormal: whole multiples of 2^-24
      const float value = static_cast<float>(magnitude) * 0x1p-24f;
      __builtin_memcpy(&bits[l], &value, 4);
      bits[l] |= sign;
    }
  }
  return _mm512_castsi512_ps(_mm512_loadu_si512(bits));
}
