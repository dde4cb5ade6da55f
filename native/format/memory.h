// Blocks of memory that start on 64 bytes.

#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace bhvit {

constexpr size_t kAlignment = 64;

struct AlignedDelete {
  void operator()(char* block) const { ::operator delete[](block, std::align_val_t{kAlignment}); }
};

// Owns blocks until it is destroyed; they are zero when handed out.
class Arena {
 public:
  template <class T>
  T* take(size_t count) {
    // Rounded up, so that whole vectors may be read at the end.
    const size_t bytes = (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment + kAlignment;
    blocks_.emplace_back(static_cast<char*>(::operator new[](bytes, std::align_val_t{kAlignment})));
    std::memset(blocks_.back().get(), 0, bytes);
    total_ += bytes;
    return reinterpret_cast<T*>(blocks_.back().get());
  }

  size_t total() const { return total_; }

 private:
  std::vector<std::unique_ptr<char[], AlignedDelete>> blocks_;
  size_t total_ = 0;
};

}  // namespace bhvit
