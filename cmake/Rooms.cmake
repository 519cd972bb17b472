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
  # The kernels include themselves once for each CPU; policies and rows repeat names from file to file.
  if(NOT name MATCHES "^(kernels|policies|rows)$")
    rkv_in_few_files(rkv_${name})
  endif()

  if(RETENTIVEKV_BUILD_TESTS AND tests)
    rkv_test(${name}_test ${tests} LIBS ${ARG_TEST_LIBS})
  endif()
endfunction()

# rkv_in_few_files(TARGET [APART source...]): where RETENTIVEKV_UNITY asks for it, compiles the target's files eight at a
# time, except those APART that repeat names of others. Large headers and templates are then compiled a few times instead
# of once per file, which is most of the time that a build takes.
function(rkv_in_few_files target)
  cmake_parse_arguments(ARG "" "" "APART" ${ARGN})
  if(RETENTIVEKV_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
    foreach(source ${ARG_APART})
      set_source_files_properties("${source}" PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    endforeach()
  endif()
endfunction()

# rkv_runs_seldom(TARGET): code that is compiled faster than it would gain by -O3, and of which the sanitizers see more
# without optimization.
function(rkv_runs_seldom target)
  if(RETENTIVEKV_SANITIZE AND NOT RETENTIVEKV_BUILD_FUZZERS)
    target_compile_options(${target} PRIVATE -O0)
  else()
    target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
endfunction()

# rkv_test(NAME source... [LIBS target...])
function(rkv_test name)
  cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
  if(NOT TARGET rkv_test_main)
    add_library(rkv_test_main STATIC "${PROJECT_SOURCE_DIR}/tests/support/test_main.cc")
    target_link_libraries(rkv_test_main PUBLIC rkv_options GTest::gtest)
  endif()
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE rkv_internal ${ARG_LIBS} rkv_test_main)
  rkv_test_paths(${name})
  # Every test reads the same large headers: compiled once for all.
  if(TARGET base_test AND NOT name STREQUAL base_test)
    target_precompile_headers(${name} REUSE_FROM base_test)
  else()
    target_precompile_headers(${name} PRIVATE <gtest/gtest.h> <algorithm> <chrono> <filesystem>
      <fstream> <functional> <map> <memory> <random> <span> <string> <vector>)
  endif()
  # Long tests first, so that none is left to run alone at the end.
  if(name STREQUAL cli_test)
    set(cost 10)
  else()
    set(cost 1)
  endif()
  gtest_discover_tests(${name} TEST_PREFIX "${name}." DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT 900 FIXTURES_REQUIRED models COST ${cost})
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
