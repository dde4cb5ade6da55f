# The C++ compiler, or a line that says what is missing: pip shows nothing else of a build that fails.

set(BHVIT_NEEDS "GCC 10, clang 13 or newer, such as `apt install g++` or `dnf install gcc-c++` installs it; \
CXX=/path/to/c++ chooses one. For a device without a compiler, docs/tutorials/deploy.md builds a wheel elsewhere.")

if(CMAKE_HOST_UNIX AND NOT CMAKE_CXX_COMPILER AND NOT CMAKE_TOOLCHAIN_FILE)
  set(candidates c++ g++ clang++ icpx CC xlC)  # those that CMake tries
  if(DEFINED ENV{CXX})
    separate_arguments(candidates UNIX_COMMAND "$ENV{CXX}")  # the compiler and its options
    list(GET candidates 0 candidates)
  endif()
  find_program(BHVIT_FOUND_COMPILER NAMES ${candidates})
  mark_as_advanced(BHVIT_FOUND_COMPILER)
  if(NOT BHVIT_FOUND_COMPILER)
    list(JOIN candidates ", " candidates)
    message(FATAL_ERROR "bhvit is compiled when it is installed, and there is no C++ compiler (${candidates}): it needs ${BHVIT_NEEDS}")
  endif()
endif()
enable_language(CXX)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
# No file is a module, and looking for them needs clang-scan-deps, which not every clang comes with. The check below would
# look, too.
set(CMAKE_CXX_SCAN_FOR_MODULES OFF)

# The training kernels alone use ranges, which older libraries of Emscripten lack.
set(ranges "std::ranges::equal(span, values)")
if(EMSCRIPTEN)
  set(ranges "span.size() == 2")
endif()
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_QUIET ON)
check_cxx_source_compiles("
#include <algorithm>
#include <bit>
#include <span>
int main() {
  const int values[] = {1, 2};
  const std::span<const int> span(values);
  return std::popcount(3u) == 2 && ${ranges} ? 0 : 1;
}" BHVIT_CXX20)
unset(CMAKE_REQUIRED_QUIET)
if(NOT BHVIT_CXX20)
  message(FATAL_ERROR "bhvit is written in C++20, which ${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}) does not compile: it needs ${BHVIT_NEEDS}")
endif()
