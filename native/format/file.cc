#include "format/file.h"

#include <cerrno>
#include <cstdio>
#include <system_error>

#if defined(__unix__) || (defined(__APPLE__) && defined(__MACH__))
#define BHVIT_POSIX
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(_POSIX_MAPPED_FILES) && _POSIX_MAPPED_FILES > 0 && !defined(__EMSCRIPTEN__) && !defined(__wasi__)
#define BHVIT_MMAP
#include <sys/mman.h>
#endif
#endif

#include "format/reader.h"

namespace bhvit {
namespace {

std::unique_ptr<char[], AlignedDelete> allocate(uint64_t size) {
  return std::unique_ptr<char[], AlignedDelete>(
      static_cast<char*>(::operator new[](static_cast<size_t>(size), std::align_val_t{kAlignment})));
}

void check_size(const std::string& path, uint64_t size) {
  if (size > kMaxBytes) throw FileError(path, EFBIG, "it is larger than the 2 GiB that a model may have");
}

#if defined(BHVIT_POSIX)

// An open file that is closed in the end.
class Descriptor {
 public:
  // Does not wait for the other end of a pipe.
  explicit Descriptor(const std::string& path)
      : file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {
    if (file_ < 0) throw FileError(path, errno);
  }
  ~Descriptor() { ::close(file_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  // Bytes of a plain file.
  uint64_t size(const std::string& path) const {
    struct stat status;
    if (::fstat(file_, &status) != 0) throw FileError(path, errno);
    if (S_ISDIR(status.st_mode)) throw FileError(path, EISDIR);
    if (!S_ISREG(status.st_mode)) throw FileError(path, EINVAL, "it is a pipe or a device; copy it to a plain file");
    check_size(path, static_cast<uint64_t>(status.st_size));
    return static_cast<uint64_t>(status.st_size);
  }

  // Fills `to` and returns how much there was.
  size_t read(const std::string& path, char* to, size_t size) const {
    size_t done = 0;
    while (done < size) {
      const ssize_t got = ::read(file_, to + done, size - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw FileError(path, errno);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  }

  // Pages of the file, or null.
  const char* map([[maybe_unused]] size_t size) const {
#if defined(BHVIT_MMAP)
    void* pages = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file_, 0);
    return pages == MAP_FAILED ? nullptr : static_cast<const char*>(pages);
#else
    return nullptr;
#endif
  }

 private:
  int file_;
};

#else

class Descriptor {
 public:
  explicit Descriptor(const std::string& path) : file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) throw FileError(path, errno);
  }
  uint64_t size(const std::string& path) const {
    const bool ended = std::fseek(file_.get(), 0, SEEK_END) == 0;
    const long size = ended ? std::ftell(file_.get()) : -1;
    if (size < 0) throw FileError(path, EINVAL, "it is not a plain file");
    std::rewind(file_.get());
    check_size(path, static_cast<uint64_t>(size));
    return static_cast<uint64_t>(size);
  }
  size_t read(const std::string& path, char* to, size_t size) const {
    const size_t done = std::fread(to, 1, size, file_.get());
    if (std::ferror(file_.get())) throw FileError(path, errno);
    return done;
  }
  const char* map(size_t) const { return nullptr; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_;
};

#endif

std::string meaning(int error, const std::string& reason) {
  return reason.empty() ? std::generic_category().message(error) : reason;
}

}  // namespace

FileError::FileError(const std::string& path, int error, const std::string& why)
    : std::runtime_error("cannot read " + path + ": " + meaning(error, why)),
      code(error),
      reason(meaning(error, why)) {}

FileBytes::FileBytes(const std::string& path, Mapping mapping) {
  const Descriptor file(path);
  const uint64_t size = file.size(path);
  if (size && (mapping == Mapping::always || (mapping == Mapping::large && size >= kMappedFrom))) {
    data_ = file.map(static_cast<size_t>(size));
    mapped_ = data_ != nullptr;
    size_ = static_cast<size_t>(size);
  }
  if (mapped_) return;
  copy_ = allocate(size);
  data_ = copy_.get();
  size_ = file.read(path, copy_.get(), static_cast<size_t>(size));
}

FileBytes::~FileBytes() {
#if defined(BHVIT_MMAP)
  if (mapped_) ::munmap(const_cast<char*>(data_), size_);
#endif
}

}  // namespace bhvit
