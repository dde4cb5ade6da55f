# The C library, shared and static, its header and its package: find_package(bhvit), then bhvit::bhvit or
# bhvit::bhvit_static, which a project of C alone must link as C++ (project(... LANGUAGES C CXX)).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Its objects are compiled once and are in both.
add_library(bhvit_c OBJECT native/api/c_api.cc)
target_link_libraries(bhvit_c PUBLIC bhvit_engine)
target_compile_options(bhvit_c PRIVATE ${BHVIT_OPTIONS})
set_target_properties(bhvit_c PROPERTIES
  POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)

set(BHVIT_LIBRARIES bhvit_static)
if(NOT EMSCRIPTEN)  # WebAssembly has static libraries alone
  list(APPEND BHVIT_LIBRARIES bhvit_shared)
  add_library(bhvit_shared SHARED $<TARGET_OBJECTS:bhvit_c> $<TARGET_OBJECTS:bhvit_engine>)
endif()
add_library(bhvit_static STATIC $<TARGET_OBJECTS:bhvit_c> $<TARGET_OBJECTS:bhvit_engine>)
foreach(library IN LISTS BHVIT_LIBRARIES)
  set_target_properties(${library} PROPERTIES OUTPUT_NAME bhvit LINKER_LANGUAGE CXX)
  target_link_libraries(${library} PRIVATE Threads::Threads)
  target_include_directories(${library} INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  if(BHVIT_SANITIZE)
    target_link_options(${library} PRIVATE -fsanitize=${BHVIT_SANITIZE})
  endif()
endforeach()
# Before 1.0 a minor version may change the interface.
if(TARGET bhvit_shared)
  set_target_properties(bhvit_shared PROPERTIES
    EXPORT_NAME bhvit VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
endif()
if(UNIX AND NOT APPLE AND TARGET bhvit_shared)
  # Templates of the standard library have default visibility whatever the compiler is told.
  target_link_options(bhvit_shared PRIVATE -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/native/api/bhvit.map)
endif()

if(EMSCRIPTEN)
  # Exceptions, which the library keeps to itself, are emulated by code that only the last linking can add.
  target_link_options(bhvit_static INTERFACE -fexceptions)
  # What JavaScript loads: bhvit.js, a CommonJS module, and bhvit.wasm. It exports what the header declares. Objects are
  # optimised already; linking with more than -O1 shortens the JavaScript, by a parser that not every Node finds.
  file(READ native/api/bhvit.h header)
  string(REGEX MATCHALL "BHVIT_API [^;(]*bhvit_[a-z_]+\\(" declared "${header}")
  list(TRANSFORM declared REPLACE ".*(bhvit_[a-z_]+)\\(" "_\\1")
  list(JOIN declared "," declared)
  add_executable(bhvit_module $<TARGET_OBJECTS:bhvit_c> $<TARGET_OBJECTS:bhvit_engine>)
  target_link_options(bhvit_module PRIVATE -fexceptions -O1 -sMODULARIZE=1 -sEXPORT_NAME=createBhvit
    -sALLOW_MEMORY_GROWTH=1 -sNODEJS_CATCH_EXIT=0 -sNODEJS_CATCH_REJECTION=0
    -sEXPORTED_FUNCTIONS=${declared},_malloc,_free
    -sEXPORTED_RUNTIME_METHODS=UTF8ToString,HEAPU8,HEAPU32,HEAPF32)
  set_target_properties(bhvit_module PROPERTIES OUTPUT_NAME bhvit LINKER_LANGUAGE CXX)
  install(FILES $<TARGET_FILE_DIR:bhvit_module>/bhvit.js $<TARGET_FILE_DIR:bhvit_module>/bhvit.wasm
    DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()

set(BHVIT_PACKAGE ${CMAKE_INSTALL_LIBDIR}/cmake/bhvit)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/bhvitConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(TARGETS ${BHVIT_LIBRARIES} EXPORT bhvitTargets)
install(FILES native/api/bhvit.h TYPE INCLUDE)
install(EXPORT bhvitTargets NAMESPACE bhvit:: DESTINATION ${BHVIT_PACKAGE})
install(FILES cmake/bhvitConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/bhvitConfigVersion.cmake DESTINATION ${BHVIT_PACKAGE})

if(BHVIT_TESTS)
  add_executable(bhvit_threads tests/native/threads.cc)
  target_compile_options(bhvit_threads PRIVATE ${BHVIT_OPTIONS})
  target_link_libraries(bhvit_threads PRIVATE bhvit_c bhvit_engine)
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    add_custom_target(bhvit_fuzzers)
    file(GLOB BHVIT_FORMAT CONFIGURE_DEPENDS native/format/*.cc)
    foreach(name IN ITEMS fuzz json schema resize)
      add_executable(bhvit_${name} tests/fuzz/${name}.cc tests/fuzz/repair.cc)
      target_compile_options(bhvit_${name} PRIVATE ${BHVIT_OPTIONS})
      if(name MATCHES "^(fuzz|resize)$")
        target_link_libraries(bhvit_${name} PRIVATE bhvit_c bhvit_engine)
      else()  # texts alone: no kernels
        target_sources(bhvit_${name} PRIVATE ${BHVIT_FORMAT})
        target_include_directories(bhvit_${name} PRIVATE native)
        target_compile_options(bhvit_${name} PRIVATE -fsanitize=${BHVIT_SANITIZE} -fno-sanitize-recover=all -g)
        target_link_options(bhvit_${name} PRIVATE -fsanitize=${BHVIT_SANITIZE})
      endif()
      target_link_options(bhvit_${name} PRIVATE -fsanitize=fuzzer)
      add_dependencies(bhvit_fuzzers bhvit_${name})
    endforeach()
  endif()
endif()
