# The modules of the npm package in web/: bhvit.wasm, and bhvit.relaxed.wasm for engines with relaxed SIMD, whose table
# look-ups take an instruction less and give the same bits. No JavaScript is generated: web/src/module.ts loads them.
#
# Nothing catches exceptions here: one leaves WebAssembly as a JavaScript exception, and bhvit_caught says what it was.
# What it leaves behind goes with the module's memory, which one model has for itself.
file(GLOB BHVIT_WEB_SOURCES CONFIGURE_DEPENDS native/format/*.cc native/engine/*.cc native/engine/steps/*.cc)
list(FILTER BHVIT_WEB_SOURCES EXCLUDE REGEX "/resize.cc$")
set(BHVIT_WEB_OPTIONS -msimd128 -ffp-contract=off -fno-math-errno -Wall -Wextra)
if(BHVIT_WARNINGS_AS_ERRORS)
  list(APPEND BHVIT_WEB_OPTIONS -Werror)
endif()

add_library(bhvit_web_engine OBJECT ${BHVIT_WEB_SOURCES} native/api/c_api.cc)
set_target_properties(bhvit_web_engine PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
target_compile_options(bhvit_web_engine PRIVATE -Oz ${BHVIT_WEB_OPTIONS})

# Objects are optimised already; linking with -Oz shortens them further.
set(BHVIT_WEB_EXPORTS bhvit_error bhvit_open_memory bhvit_close bhvit_get_info bhvit_class_name bhvit_task
  bhvit_preprocess bhvit_run bhvit_segment bhvit_resize_labels bhvit_feature_count
  bhvit_embed bhvit_probabilities bhvit_caught malloc free)
list(TRANSFORM BHVIT_WEB_EXPORTS PREPEND "_")
list(JOIN BHVIT_WEB_EXPORTS "," BHVIT_WEB_EXPORTS)
foreach(name IN ITEMS bhvit bhvit.relaxed)
  string(REPLACE "." "_" target web_${name})
  add_executable(${target} native/kernels/wasm.cc native/engine/resize.cc $<TARGET_OBJECTS:bhvit_web_engine>)
  target_compile_options(${target} PRIVATE -O${BHVIT_OPTIMIZE} ${BHVIT_WEB_OPTIONS})
  if(name STREQUAL "bhvit.relaxed")
    target_compile_options(${target} PRIVATE -mrelaxed-simd)
    target_link_options(${target} PRIVATE -mrelaxed-simd)
  endif()
  # A model has its memory to itself, and the stack holds tiles.
  target_link_options(${target} PRIVATE -Oz --no-entry -sSTANDALONE_WASM=1 -sALLOW_MEMORY_GROWTH=1 -sMALLOC=emmalloc
    -sTOTAL_STACK=1MB -sINITIAL_MEMORY=4MB -sMAXIMUM_MEMORY=2GB -sERROR_ON_UNDEFINED_SYMBOLS=0
    -sWARN_ON_UNDEFINED_SYMBOLS=0 -sEXPORTED_FUNCTIONS=${BHVIT_WEB_EXPORTS})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${name} SUFFIX ".wasm")
endforeach()
foreach(target IN ITEMS bhvit_web_engine web_bhvit web_bhvit_relaxed)
  target_compile_definitions(${target} PRIVATE BHVIT_WASM BHVIT_WEB)
  target_include_directories(${target} PRIVATE native)
endforeach()
