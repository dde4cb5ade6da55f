# The modules of the npm package in web/: bhvit.wasm, and bhvit.relaxed.wasm for engines with relaxed SIMD, whose table
# look-ups take an instruction less and give the same bits; and both with threads, for pages that may share memory. No
# JavaScript is generated: web/src/module.ts loads them, and web/src/threads.ts starts the threads' workers.
#
# Nothing catches exceptions here: one leaves WebAssembly as a JavaScript exception, and bhvit_caught says what it was.
# What it leaves behind goes with the module's memory, which one model has for itself.
file(GLOB BHVIT_WEB_SOURCES CONFIGURE_DEPENDS native/format/*.cc native/engine/*.cc native/engine/steps/*.cc)
list(FILTER BHVIT_WEB_SOURCES EXCLUDE REGEX "/resize.cc$")
set(BHVIT_WEB_OPTIONS -msimd128 -ffp-contract=off -fno-math-errno -Wall -Wextra)
if(BHVIT_WARNINGS_AS_ERRORS)
  list(APPEND BHVIT_WEB_OPTIONS -Werror)
endif()

function(bhvit_web_objects target)
  cmake_parse_arguments(PARSE_ARGV 1 WEB "" "" "SOURCES;OPTIONS;DEFINITIONS")
  add_library(${target} OBJECT ${WEB_SOURCES})
  target_compile_options(${target} PRIVATE ${WEB_OPTIONS} ${BHVIT_WEB_OPTIONS})
  target_compile_definitions(${target} PRIVATE BHVIT_WASM BHVIT_WEB ${WEB_DEFINITIONS})
  target_include_directories(${target} PRIVATE native)
endfunction()

# What opens and checks models is short; what runs them is fast, and knows nothing of threads. In kernels LLVM would make
# calls of memset out of sums that begin at zero, which keeps them in memory.
set(engine native/api/c_api.cc ${BHVIT_WEB_SOURCES})
set(kernels native/kernels/wasm.cc native/engine/resize.cc)
bhvit_web_objects(web_engine SOURCES ${engine} OPTIONS -Oz)
bhvit_web_objects(web_engine_threads SOURCES ${engine} OPTIONS -Oz -matomics -mbulk-memory DEFINITIONS BHVIT_WEB_THREADS)
bhvit_web_objects(web_kernels SOURCES ${kernels} OPTIONS -O${BHVIT_OPTIMIZE} -fno-builtin-memset)
bhvit_web_objects(web_kernels_relaxed SOURCES ${kernels} OPTIONS -O${BHVIT_OPTIMIZE} -fno-builtin-memset -mrelaxed-simd)
set_target_properties(web_engine web_engine_threads PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)

set(BHVIT_WEB_EXPORTS bhvit_error bhvit_open_memory bhvit_close bhvit_get_info bhvit_class_name bhvit_task
  bhvit_preprocess bhvit_run bhvit_segment bhvit_resize_labels bhvit_feature_count
  bhvit_embed bhvit_probabilities bhvit_caught malloc free)

# Objects are optimised already; linking with -Oz shortens them further. A model has its memory to itself, and the stack
# holds tiles. Emscripten knows no module with threads but without its script: the linker is told itself, and is not
# to refuse C's library, which workers do not use.
function(bhvit_web_module name engine kernels)
  string(REPLACE "." "_" target web_${name})
  set(exports ${BHVIT_WEB_EXPORTS})
  set(threads)
  if(engine STREQUAL "web_engine_threads")
    list(APPEND exports bhvit_serve)
    set(threads -matomics -mbulk-memory -sIMPORTED_MEMORY=1 -Wl,--shared-memory,--no-check-features)
  endif()
  list(TRANSFORM exports PREPEND "_")
  list(JOIN exports "," exports)
  add_executable(${target} $<TARGET_OBJECTS:${kernels}> $<TARGET_OBJECTS:${engine}>)
  target_link_options(${target} PRIVATE -Oz --no-entry -sSTANDALONE_WASM=1 -sALLOW_MEMORY_GROWTH=1 -sMALLOC=emmalloc
    -sTOTAL_STACK=1MB -sINITIAL_MEMORY=4MB -sMAXIMUM_MEMORY=2GB -sERROR_ON_UNDEFINED_SYMBOLS=0
    -sWARN_ON_UNDEFINED_SYMBOLS=0 -sEXPORTED_FUNCTIONS=${exports} ${threads})
  if(kernels STREQUAL "web_kernels_relaxed")
    target_link_options(${target} PRIVATE -mrelaxed-simd)
  endif()
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${name} SUFFIX ".wasm" LINKER_LANGUAGE CXX)
endfunction()
bhvit_web_module(bhvit web_engine web_kernels)
bhvit_web_module(bhvit.relaxed web_engine web_kernels_relaxed)
bhvit_web_module(bhvit.threads web_engine_threads web_kernels)
bhvit_web_module(bhvit.threads.relaxed web_engine_threads web_kernels_relaxed)
