// The bytes of a file, for as long as this object lives.

#pragma once

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "format/memory.h"

namespace bhvit {

// A file that cannot be read; `code` is its errno.
struct FileError : std::runtime_error {
  FileError(const std::string& path, int error);
  int code;
};

// Mapped read-only where the platform can and the file is a plain one, otherwise read into memory. Either way the first
// byte starts on kAlignment. Mapped pages are the file's own: replacing it by another (as `bhvit pack` does) leaves them
// as they are, writing into it changes them, and cutting it short makes a later use of the lost part fatal (SIGBUS).
class FileBytes {
 public:
  explicit FileBytes(const std::string& path);  // throws FileError or std::bad_alloc
  ~FileBytes();
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  std::string_view bytes() const { return {data_, size_}; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  void read(const std::string& path, std::unique_ptr<std::FILE, Close> file);

  const char* data_ = nullptr;
  size_t size_ = 0;
  [[maybe_unused]] bool mapped_ = false;  // where files can be mapped
  std::unique_ptr<char[], AlignedDelete> copy_;  // where it is not mapped
};

}  // namespace bhvit
