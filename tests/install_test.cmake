# Installs into a new prefix, builds a project of somebody else against it, and runs what came out:
#   cmake -DBUILD=... -DSOURCE=... -P install_test.cmake
set(work "${BUILD}/install-test")
file(REMOVE_RECURSE "${work}")

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${ARGV}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${work}/prefix")

# The public headers, and nothing of the laboratory.
file(GLOB headers RELATIVE "${work}/prefix/include/retentivekv" "${work}/prefix/include/retentivekv/*")
list(SORT headers)
set(public chat.h engine.h inspect.h kv_cache.h model_options.h options.h picture.h retentivekv.h
  status.h version.h)
if(NOT headers STREQUAL public)
  message(FATAL_ERROR "installed are ${headers}, and not ${public}")
endif()
file(GLOB libraries "${work}/prefix/lib*/librkv_*" "${work}/prefix/lib*/*/librkv_*")
if(libraries)
  message(FATAL_ERROR "installed are ${libraries}, which are no part of the library")
endif()

run("${CMAKE_COMMAND}" -S "${SOURCE}/tests/consumer" -B "${work}/build" -G Ninja
    "-DCMAKE_PREFIX_PATH=${work}/prefix" "-DEXAMPLES=${SOURCE}/examples")
run("${CMAKE_COMMAND}" --build "${work}/build")
set(reference "${work}/prefix/share/retentivekv/reference")
set(picture "${SOURCE}/models/reference/sample.png")
run("${work}/build/chat" "${reference}/reference-f16.gguf" "${reference}/mmproj-reference-f16.gguf"
    "${picture}" "What is the track?")
if(NOT output MATCHES "Maria")
  message(FATAL_ERROR "the installed library answered: ${output}")
endif()
run("${work}/prefix/bin/rkv" run --image "${picture}" -p "What is the track?" --temp 0)
if(NOT output MATCHES "Maria")
  message(FATAL_ERROR "the installed rkv answered: ${output}")
endif()
file(REMOVE_RECURSE "${work}")
