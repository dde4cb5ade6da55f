#include "format/file.h"

#include <cerrno>
#include <cstring>
#include <system_error>

#if defined(__unix__) || (defined(__APPLE__) && defined(__MACH__))
#include <unistd.h>
#if defined(_POSIX_MAPPED_FILES) && _POSIX_MAPPED_FILES > 0 && !defined(__EMSCRIPTEN__) && !defined(__wasi__)
#define BHVIT_MMAP
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#endif
#endif

#include "format/reader.h"

namespace bhvit {
namespace {

std::unique_ptr<char[], AlignedDelete> allocate(size_t size) {
  return std::unique_ptr<char[], AlignedDelete>(static_cast<char*>(::operator new[](size, std::align_val_t{kAlignment})));
}

}  // namespace

FileError::FileError(const std::string& path, int error)
    : std::runtime_error("cannot read " + path + ": " + std::generic_category().message(error)), code(error) {}

FileBytes::FileBytes(const std::string& path) {
#if defined(BHVIT_MMAP)
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw FileError(path, errno);
  struct stat status;
  if (::fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0 &&
      static_cast<uint64_t>(status.st_size) <= kMaxBytes) {
    void* pages = ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
    if (pages != MAP_FAILED) {
      data_ = static_cast<const char*>(pages);
      size_ = static_cast<size_t>(status.st_size);
      mapped_ = true;
    }
  }
  if (mapped_) {
    ::close(file);
    return;
  }
  // The same descriptor: a pipe that is closed and opened again has lost its writer.
  std::unique_ptr<std::FILE, Close> opened(::fdopen(file, "rb"));
  if (!opened) {
    const int error = errno;
    ::close(file);
    throw FileError(path, error);
  }
#else
  std::unique_ptr<std::FILE, Close> opened(std::fopen(path.c_str(), "rb"));
  if (!opened) throw FileError(path, errno);
#endif
  read(path, std::move(opened));
}

void FileBytes::read(const std::string& path, std::unique_ptr<std::FILE, Close> file) {
  std::setvbuf(file.get(), nullptr, _IONBF, 0);
  size_t capacity = 1 << 16;
  copy_ = allocate(capacity);
  // One byte more than a file may have is enough to see that it has too many.
  while (size_ <= kMaxBytes) {
    if (size_ == capacity) {
      auto larger = allocate(2 * capacity);
      std::memcpy(larger.get(), copy_.get(), size_);
      copy_ = std::move(larger);
      capacity *= 2;
    }
    const size_t got = std::fread(copy_.get() + size_, 1, capacity - size_, file.get());
    if (got == 0) {
      if (std::ferror(file.get())) throw FileError(path, errno);
      break;
    }
    size_ += got;
  }
  data_ = copy_.get();
}

FileBytes::~FileBytes() {
#if defined(BHVIT_MMAP)
  if (mapped_) ::munmap(const_cast<char*>(data_), size_);
#endif
}

}  // namespace bhvit
