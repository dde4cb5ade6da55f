// Blocks of memory that start on 64 bytes.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

namespace bhvit {

constexpr size_t kAlignment = 64;

// More memory than the caller allows.
struct MemoryLimitError : std::runtime_error {
  MemoryLimitError(uint64_t needed, uint64_t allowed);
};

struct AlignedDelete {
  void operator()(char* block) const { ::operator delete[](block, std::align_val_t{kAlignment}); }
};

// Owns blocks until it is destroyed; they are zero when handed out.
class Arena {
 public:
  // At most `limit` bytes in all.
  explicit Arena(uint64_t limit = UINT64_MAX) : limit_(limit) {}

  template <class T>
  T* take(uint64_t count) {
    const uint64_t needed = block_bytes(count, sizeof(T));
    check(needed);
    const size_t bytes = static_cast<size_t>(needed);
    if (bytes != needed) throw std::bad_alloc();  // 32-bit addresses
    blocks_.emplace_back(static_cast<char*>(::operator new[](bytes, std::align_val_t{kAlignment})));
    std::memset(blocks_.back().get(), 0, bytes);
    total_ += bytes;
    return reinterpret_cast<T*>(blocks_.back().get());
  }

  // Throws MemoryLimitError if there are not `bytes` more.
  void check(uint64_t bytes) const {
    if (bytes > limit_ - total_) throw MemoryLimitError(total_ + bytes, limit_);
  }

  // Bytes of a block of `count` values: rounded up, so that whole vectors may be read at the end. In 64 bits, since a
  // model for WebAssembly may ask for more than its 32-bit addresses reach.
  static uint64_t block_bytes(uint64_t count, uint64_t each) {
    return (count * each + kAlignment - 1) / kAlignment * kAlignment + kAlignment;
  }

  size_t total() const { return total_; }

 private:
  std::vector<std::unique_ptr<char[], AlignedDelete>> blocks_;
  uint64_t limit_;
  size_t total_ = 0;
};

}  // namespace bhvit
