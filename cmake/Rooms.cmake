# A room is a folder of src/. Its *.cc become an object library, its *_test.cc one test program, so
# that a new file needs no build line and no test can be left out.

# rkv_room(NAME [APART] [LIBS target...] [PRIVATE_LIBS target...] [TEST_LIBS target...])
# PRIVATE_LIBS are not seen by the rooms above. A room that is APART is a library of its own, which
# is not installed.
function(rkv_room name)
  cmake_parse_arguments(ARG "APART" "" "LIBS;PRIVATE_LIBS;TEST_LIBS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/${name}/*.cc")
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")

  if(ARG_APART)
    add_library(rkv_${name} STATIC ${sources})
  else()
    add_library(rkv_${name} OBJECT ${sources})
    target_sources(retentivekv PRIVATE $<TARGET_OBJECTS:rkv_${name}>)
  endif()
  target_link_libraries(rkv_${name} PUBLIC rkv_options ${ARG_LIBS} PRIVATE ${ARG_PRIVATE_LIBS})

  if(RETENTIVEKV_BUILD_TESTS AND tests)
    rkv_test(${name}_test ${tests} LIBS ${ARG_TEST_LIBS})
  endif()
endfunction()

# rkv_test(NAME source... [LIBS target...])
function(rkv_test name)
  cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE rkv_internal ${ARG_LIBS} GTest::gtest_main)
  rkv_test_paths(${name})
  # Every test reads the same large headers: compiled once for all.
  if(TARGET base_test AND NOT name STREQUAL base_test)
    target_precompile_headers(${name} REUSE_FROM base_test)
  else()
    target_precompile_headers(${name} PRIVATE <gtest/gtest.h> <algorithm> <chrono> <filesystem>
      <fstream> <functional> <map> <memory> <random> <span> <string> <vector>)
  endif()
  gtest_discover_tests(${name} TEST_PREFIX "${name}." DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT 900 FIXTURES_REQUIRED models)
endfunction()

# Tells a test where things are.
function(rkv_test_paths name)
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_definitions(${name} PRIVATE
    RKV_TEST_MODELS="${PROJECT_BINARY_DIR}/models"
    RKV_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
    RKV_BINARY_DIR="${PROJECT_BINARY_DIR}"
    RKV_LLAMA_DIR="${RETENTIVEKV_LLAMA_DIR}")
endfunction()
