// The floating-point environment that results are defined in, independent of the caller's.

#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace bhvit {

// While it lives, this thread rounds to nearest, keeps subnormal numbers and traps nothing; then it is as it was. Every
// thread that opens, computes or normalises has one: rounding modes, flush-to-zero and denormals-are-zero belong to a
// thread, a new thread inherits them, and other libraries set them. WebAssembly has no such modes. On x86-64 this is
// MXCSR alone: the x87 unit serves `long double`, which nothing here uses.
class FloatEnvironment {
 public:
  FloatEnvironment() : caller_(read()) {
    if (differs()) write(kDefault);
  }
  ~FloatEnvironment() {
    if (differs()) write(caller_);
  }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
#if defined(__SSE__)
  using Word = uint32_t;
  static constexpr Word kDefault = 0x1f80, kFlags = 0x3f;  // flags: which exceptions there were, no setting
  static Word read() { return _mm_getcsr(); }
  static void write(Word word) { _mm_setcsr(word); }
#elif defined(__aarch64__)
  using Word = uint64_t;
  static constexpr Word kDefault = 0, kFlags = 0;
  static Word read() {
    Word word;
    asm volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  static void write(Word word) { asm volatile("msr fpcr, %0" : : "r"(word)); }
#else
  using Word = uint32_t;
  static constexpr Word kDefault = 0, kFlags = 0;
  static Word read() { return 0; }
  static void write(Word) {}
#endif
  bool differs() const { return (caller_ & ~kFlags) != kDefault; }

  const Word caller_;
};

}  // namespace bhvit
