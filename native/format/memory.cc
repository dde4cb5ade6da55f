#include "format/memory.h"

#include <string>

namespace bhvit {
namespace {

std::string megabytes(uint64_t bytes) { return std::to_string((bytes >> 20) + (bytes % (1 << 20) != 0)) + " MiB"; }

}  // namespace

MemoryLimitError::MemoryLimitError(uint64_t needed, uint64_t allowed)
    : std::runtime_error("needs " + megabytes(needed) + " of memory or more, above the limit of " + megabytes(allowed) +
                         "; if you trust the file, raise max_memory (--max-memory)") {}

}  // namespace bhvit
