// The bytes of a file, for as long as this object lives.

#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "format/memory.h"

namespace bhvit {

// A file that cannot be read; `code` is an errno and `reason` what it means here.
struct FileError : std::runtime_error {
  FileError(const std::string& path, int error, const std::string& reason = {});
  int code;
  std::string reason;
};

enum class Mapping {
  large,   // maps files of kMappedFrom bytes or more, and reads smaller ones into memory
  always,  // where the platform can
  never,
};

constexpr uint64_t kMappedFrom = uint64_t{64} << 20;

// Bytes of a plain file, mapped read-only or read into memory; the first byte starts on kAlignment. What was read is
// independent of the file. Mapped pages are the file's own: replacing it by another (as `bhvit pack` does) leaves them as
// they are, writing into it changes them, and cutting it short makes a later use of the lost part fatal (SIGBUS).
class FileBytes {
 public:
  // Throws FileError, also for pipes and devices and for files over kMaxBytes, or std::bad_alloc.
  explicit FileBytes(const std::string& path, Mapping mapping = Mapping::large);
  ~FileBytes();
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  std::string_view bytes() const { return {data_, size_}; }
  bool mapped() const { return mapped_; }

 private:
  const char* data_ = nullptr;
  size_t size_ = 0;
  bool mapped_ = false;
  std::unique_ptr<char[], AlignedDelete> copy_;  // where it is not mapped
};

}  // namespace bhvit
