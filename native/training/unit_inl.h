// Residual units: RPReLU(norm(h) + residual) with what follows, and sums of RPReLUs.

#pragma once

#include "training/norm_inl.h"

namespace bhvit::training {
namespace {

// Channels that are gone through at a time for many rows, so that parameters and sums stay in the first cache.
constexpr long kSegment = 512;

// spread: each of `count / run` values `run` times; gather: means over `run` neighbours.
template <int run, class T>
void spread(const T* from, long count, T* to) {
  for (long i = 0; i < count / run; i++)
    for (int k = 0; k < run; k++) to[i * run + k] = from[i] * T(1.0 / run);
}
template <int run, class T>
void gather(const T* from, long count, T* to) {
  for (long i = 0; i < count / run; i++) {
    T sum = 0;
    for (int k = 0; k < run; k++) sum += from[i * run + k];
    to[i] = sum * T(1.0 / run);
  }
}
template <class T>
void spread(long run, const T* from, long count, T* to) {
  if (run == 1) return spread<1>(from, count, to);
  if (run == 2) return spread<2>(from, count, to);
  if (run == 4) return spread<4>(from, count, to);
  if (run == 8) return spread<8>(from, count, to);
  for (long i = 0; i < count; i++) to[i] = from[i / run] / T(run);
}
template <class T>
void gather(long run, const T* from, long count, T* to) {
  if (run == 1) return gather<1>(from, count, to);
  if (run == 2) return gather<2>(from, count, to);
  if (run == 4) return gather<4>(from, count, to);
  if (run == 8) return gather<8>(from, count, to);
  for (long i = 0; i < count / run; i++) {
    T sum = 0;
    for (long k = 0; k < run; k++) sum += from[i * run + k];
    to[i] = sum / T(run);
  }
}

// How the channels of a unit are gone through: in segments, and these in runs that lie within one tile of the residual,
// of whole words of bits where tiles are.
struct Cut {
  long segment, run;
};

template <class T>
Cut cut_of(const Shape& shape, const Unit<T>& unit) {
  Cut cut{unit.width, unit.width};
  while (cut.segment * 2 <= kSegment && shape.channels % (cut.segment * 2) == 0) cut.segment *= 2;
  while (cut.segment > kSegment && cut.segment % (2 * shape.channels / unit.width) == 0 && cut.segment % 64 == 0)
    cut.segment = cut.run = cut.segment / 2;
  return cut;
}

template <class T>
void unit(const Shape& shape, const Unit<T>& u, T* out, T* sign, uint32_t* bits, T* means) {
  const long channels = shape.channels, run = channels / u.width;
  const bool scaled = u.out_scale != nullptr, binary = u.binary;
  for_rows(shape, [&](long begin, long end) {
    const Cut cut = cut_of(shape, u);
    const long segment = cut.segment, n = cut.run;
    Buffer<T> values(n);
    T* a = values.data();
    for (long first = 0; first < channels; first += segment) {
      for (long i = 0; i < (end - begin) * (segment / n); i++) {
        const long row = begin + i / (segment / n), c0 = first + i % (segment / n) * n, r0 = c0 % u.width;
        const T *mean = u.norm.mean + c0, *inverse = u.norm.inverse + c0, *scale = u.norm.scale + c0;
        const T *offset = u.norm.offset + c0, *in = u.shift_in + c0, *slope = u.slope + c0, *up = u.shift_out + c0;
        const T* h = u.h + row * channels + c0;
        const T* residual = u.residual + row * u.width + r0;
        BHVIT_SIMD_LOOP
        for (long c = 0; c < n; c++) {
          const T p = (h[c] - mean[c]) * (inverse[c] * scale[c]) + offset[c] + residual[c] - in[c];
          a[c] = p * (p > 0 ? T(1) : slope[c]) + up[c];
        }
        if (u.learnable_bias) {
          const T* learnable_bias = u.learnable_bias + c0;
          if (bits) {
            pack_signs(a, learnable_bias, n, bits + (row * channels + c0) / 32);
          } else {
            T* to = sign + row * channels + c0;
            BHVIT_SIMD_LOOP
            for (long c = 0; c < n; c++) to[c] = sign_of(a[c] + learnable_bias[c], binary);
          }
          gather(run, a, n, means + row * u.width + c0 / run);
        } else {
          T* to = out + row * channels + c0;
          if (scaled) {
            const T *s = u.out_scale + c0, *t = u.out_shift + c0;
            BHVIT_SIMD_LOOP
            for (long c = 0; c < n; c++) to[c] = a[c] * s[c] + t[c];
          } else {
            std::copy(a, a + n, to);
          }
        }
      }
    }
  });
}

// Sums of a channel, in the order in which `unit_backward` takes them.
enum UnitSum { kOffset, kScale, kSlope, kShiftOut, kExtra, kOutShift, kUnitSums };

template <bool scaled, bool hidden, bool binary, class T>
void unit_backward_as(const Shape& shape, const Unit<T>& u, const UnitGradients<T>& grads) {
  const long channels = shape.channels, run = channels / u.width;
  const Buffer<double> totals = sum_rows<kUnitSums, T>(shape, [&](long begin, long end, T* sums) {
    const Cut cut = cut_of(shape, u);
    const long segment = cut.segment, n = cut.run;
    Buffer<T> buffer(n);
    T* mean_grad = buffer.data();
    for (long first = 0; first < channels; first += segment) {
      for (long i = 0; i < (end - begin) * (segment / n); i++) {
        const long row = begin + i / (segment / n), c0 = first + i % (segment / n) * n, r0 = c0 % u.width;
        const T *mean = u.norm.mean + c0, *inverse = u.norm.inverse + c0, *scale = u.norm.scale + c0;
        const T *offset = u.norm.offset + c0, *in = u.shift_in + c0, *slope = u.slope + c0, *up = u.shift_out + c0;
        const T *learnable_bias = hidden ? u.learnable_bias + c0 : nullptr,
                *out_scale = scaled ? u.out_scale + c0 : nullptr;
        T *d_offset = sums + kOffset * channels + c0, *d_scale = sums + kScale * channels + c0;
        T *d_slope = sums + kSlope * channels + c0, *d_up = sums + kShiftOut * channels + c0;
        T *d_extra = sums + kExtra * channels + c0, *d_out_shift = sums + kOutShift * channels + c0;
        const T* h = u.h + row * channels + c0;
        const T* residual = u.residual + row * u.width + r0;
        const T* g = (hidden ? grads.signs : grads.out) + row * channels + c0;
        T* dz = grads.h + row * channels + c0;
        if (hidden) spread(run, grads.means + row * u.width + c0 / run, n, mean_grad);
        BHVIT_SIMD_LOOP
        for (long c = 0; c < n; c++) {
          const T unit = (h[c] - mean[c]) * inverse[c];
          const T p = unit * scale[c] + offset[c] + residual[c] - in[c];
          const T negative = p > 0 ? T(0) : p, factor = p > 0 ? T(1) : slope[c];
          const T a = p * factor + up[c];
          T da = g[c];
          if (hidden) {
            const T through = da * sign_slope(a + learnable_bias[c], binary);
            d_extra[c] += through;
            da = through + mean_grad[c];
          } else if (scaled) {
            d_extra[c] += da * a;
            d_out_shift[c] += da;
            da *= out_scale[c];
          }
          d_up[c] += da;
          d_slope[c] += da * negative;
          const T d = da * factor;
          d_offset[c] += d;
          d_scale[c] += d * unit;
          dz[c] = d;
        }
        T* to = grads.residual + row * u.width + r0;
        if (c0 < u.width) {
          std::copy(dz, dz + n, to);
        } else {
          BHVIT_SIMD_LOOP
          for (long c = 0; c < n; c++) to[c] += dz[c];
        }
      }
    }
  });
  store(totals, kOffset, channels, grads.norm_offset);
  store(totals, kScale, channels, grads.norm_scale);
  store(totals, kSlope, channels, grads.slope);
  store(totals, kShiftOut, channels, grads.shift_out);
  store(totals, kExtra, channels, hidden ? grads.learnable_bias : grads.out_scale);
  store(totals, kOutShift, channels, grads.out_shift);
  for (long c = 0; c < channels; c++) grads.shift_in[c] = static_cast<T>(-totals[kOffset * channels + c]);
  normalise_finish(shape, u.h, u.norm, totals.data(), static_cast<const T*>(grads.h), grads.h);
}

template <class T>
void unit_backward(const Shape& shape, const Unit<T>& u, const UnitGradients<T>& grads) {
  if (u.learnable_bias && u.binary) return unit_backward_as<false, true, true>(shape, u, grads);
  if (u.learnable_bias) return unit_backward_as<false, true, false>(shape, u, grads);
  if (u.out_scale) return unit_backward_as<true, false, false>(shape, u, grads);
  return unit_backward_as<false, false, false>(shape, u, grads);
}

template <class T>
void branches(const Shape& shape, int count, const T* const* y, const T* const* input, const T* const* slope,
              const T* shift, T* out) {
  const long channels = shape.channels;
  for_rows(shape, [&](long begin, long end) {
    for (long row = begin; row < end; row++) {
      T* to = out + row * channels;
      std::copy(shift, shift + channels, to);
      for (int d = 0; d < count; d++) {
        const T *from = y[d] + row * channels, *in = input[d], *s = slope[d];
        BHVIT_SIMD_LOOP
        for (long c = 0; c < channels; c++) {
          const T p = from[c] + in[c];
          to[c] += p * (p > 0 ? T(1) : s[c]);
        }
      }
    }
  });
}

template <class T>
void branches_backward(const Shape& shape, int count, const T* const* y, const T* const* input, const T* const* slope,
                       const T* grad, T* const* y_grad, T* const* input_grad, T* const* slope_grad, T* shift_grad) {
  const long channels = shape.channels;
  for (int d = 0; d < count; d++) {
    const Buffer<double> totals = sum_rows<3, T>(shape, [&](long begin, long end, T* sums) {
      const T *in = input[d], *s = slope[d];
      T *d_in = sums, *d_slope = sums + channels, *d_shift = sums + 2 * channels;
      for (long row = begin; row < end; row++) {
        const T *from = y[d] + row * channels, *g = grad + row * channels;
        T* to = y_grad[d] + row * channels;
        // Factors, not results, are chosen here and below: of those that compilers make no branches.
        BHVIT_SIMD_LOOP
        for (long c = 0; c < channels; c++) {
          const T p = from[c] + in[c], factor = p > 0 ? T(1) : s[c], through = g[c] * factor;
          d_slope[c] += std::min(p, T(0)) * g[c];
          d_in[c] += through;
          d_shift[c] += g[c];
          to[c] = through;
        }
      }
    });
    store(totals, 0, channels, input_grad[d]);
    store(totals, 1, channels, slope_grad[d]);
    if (d == 0) store(totals, 2, channels, shift_grad);
  }
}

}  // namespace
}  // namespace bhvit::training
