# Everything this project stands on, in one place.

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(hwy REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(httplib REQUIRED IMPORTED_TARGET cpp-httplib)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_library(RETENTIVEKV_LIBEDIT edit REQUIRED)
find_path(RETENTIVEKV_STB_DIR stb_image_write.h PATH_SUFFIXES stb REQUIRED)

# What decodes pictures; cmake/retentivekvConfig.cmake.in finds the same for users.
find_package(JPEG REQUIRED)
find_package(GIF REQUIRED)
pkg_check_modules(spng REQUIRED IMPORTED_TARGET spng)
pkg_check_modules(webp REQUIRED IMPORTED_TARGET libwebp libwebpdemux)
set(picture_libraries JPEG::JPEG GIF::GIF PkgConfig::spng PkgConfig::webp)

# llama.cpp: an installed prefix, by default the one that scripts/setup.sh makes.
set(RETENTIVEKV_LLAMA_DIR "${PROJECT_SOURCE_DIR}/.deps/llama" CACHE PATH
    "Prefix where llama.cpp (with libmtmd) is installed")
if(NOT EXISTS "${RETENTIVEKV_LLAMA_DIR}/include/llama.h")
  message(FATAL_ERROR
    "No llama.cpp in RETENTIVEKV_LLAMA_DIR=${RETENTIVEKV_LLAMA_DIR}. Run scripts/setup.sh, which "
    "builds the pinned version, or pass -DRETENTIVEKV_LLAMA_DIR=PREFIX of your own installation "
    "(cmake --install of llama.cpp with LLAMA_BUILD_MTMD=ON).")
endif()
set(llama_prefix_saved ${CMAKE_PREFIX_PATH})
list(PREPEND CMAKE_PREFIX_PATH "${RETENTIVEKV_LLAMA_DIR}")
find_package(llama CONFIG REQUIRED)
set(CMAKE_PREFIX_PATH ${llama_prefix_saved})
find_library(RETENTIVEKV_MTMD_LIBRARY mtmd PATHS "${RETENTIVEKV_LLAMA_DIR}/lib" REQUIRED
             NO_DEFAULT_PATH)
# llama.cpp's Jinja engine is in its `common`, whose headers it does not install.
find_library(RETENTIVEKV_COMMON_LIBRARY llama-common PATHS "${RETENTIVEKV_LLAMA_DIR}/lib"
             REQUIRED NO_DEFAULT_PATH)
set(RETENTIVEKV_COMMON_DIR "${RETENTIVEKV_LLAMA_DIR}/include/llama-common" CACHE PATH
    "Headers of llama.cpp's common library")
if(NOT EXISTS "${RETENTIVEKV_COMMON_DIR}/chat.h")
  message(FATAL_ERROR
    "No chat.h in RETENTIVEKV_COMMON_DIR=${RETENTIVEKV_COMMON_DIR}. scripts/setup.sh copies these "
    "headers from llama.cpp's sources; or pass the folder `common` of the sources that "
    "RETENTIVEKV_LLAMA_DIR was built from.")
endif()
# llama.cpp exports no targets for these; cmake/retentivekvConfig.cmake.in makes the same for users.
add_library(retentivekv_mtmd UNKNOWN IMPORTED)
set_target_properties(retentivekv_mtmd PROPERTIES IMPORTED_LOCATION "${RETENTIVEKV_MTMD_LIBRARY}")
add_library(retentivekv_common UNKNOWN IMPORTED)
set_target_properties(retentivekv_common PROPERTIES
  IMPORTED_LOCATION "${RETENTIVEKV_COMMON_LIBRARY}")

file(STRINGS "${PROJECT_SOURCE_DIR}/cmake/llama.version" llama_pin REGEX "^LLAMA_VERSION=")
string(REPLACE "LLAMA_VERSION=" "" llama_pin "${llama_pin}")
if(NOT llama_VERSION VERSION_EQUAL llama_pin)
  message(WARNING "llama.cpp ${llama_VERSION} found; this project is tested with ${llama_pin}.")
endif()

# Highway's and llama.cpp's headers are not ours to warn about.
add_library(llamacpp INTERFACE)
target_include_directories(llamacpp SYSTEM INTERFACE "${RETENTIVEKV_LLAMA_DIR}/include")
target_link_libraries(llamacpp INTERFACE retentivekv_mtmd retentivekv_common llama)

if(RETENTIVEKV_BUILD_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()
if(RETENTIVEKV_BUILD_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()
