#!/usr/bin/env bash
# Checks what needs no build: the format, common faults and size of the code, the scripts, the documents.
#
#   scripts/check.sh [BASE]      clang-tidy reads files that differ from commit BASE; default: where the
#                                branch left origin's, or else the commit before
#
# One line for each finding, then their number. Exits with 0 without findings, 1 with some, and 2 on wrong usage.
# A tool that cannot be had is a warning, and its findings are missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -gt 1 ] || [[ ${1:-} == -* ]]; then
  echo "usage: scripts/check.sh [BASE]" >&2
  exit 2
fi
if [ $# -eq 1 ] && ! git rev-parse --quiet --verify "$1^{commit}" > /dev/null; then
  echo "error: '$1' is no commit of this repository" >&2
  exit 2
fi
findings=$(mktemp)
trap 'rm -f -- "$findings"' EXIT

warn() { echo "warning: $*" >&2; }

install_tools() {
  if [ "$(command -v clang-format-16 clang-tidy-16 shellcheck | wc -l)" -eq 3 ]; then return 0; fi
  if command -v apt-get > /dev/null && [ "$(id -u)" -eq 0 ]; then
    echo "installing clang-format, clang-tidy and shellcheck to check with"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
      --no-install-recommends clang-format-16 clang-tidy-16 shellcheck; } > /dev/null 2>&1 || true
  fi
}

# Lizard counts the paths through functions.
fetch_lizard() {
  if [ -e .deps/python/lizard.py ]; then return 0; fi
  python3 -m pip install -q --disable-pip-version-check --root-user-action ignore \
    --target .deps/python lizard > /dev/null 2>&1
}

# has TOOL WHAT: is it there? If not, says what is not checked.
has() {
  command -v "$1" > /dev/null && return 0
  warn "$1 is not installed; $2 is not checked"
  return 1
}

# cpp_files PATH...: tracked files of C++ there.
cpp_files() { git ls-files -- "$@" | grep -E '\.(cc|cpp|h)$' || true; }

check_format() {
  has clang-format-16 "the format" || return 0
  cpp_files . | xargs clang-format-16 --dry-run 2>&1 | grep -E '^[^ ]+:[0-9]+:[0-9]+: ' || true
}

# base_commit [BASE]: the commit that changes are counted from.
base_commit() {
  if [ $# -eq 1 ]; then
    git rev-parse "$1"
  else
    local base
    base=$(git merge-base HEAD origin/HEAD 2> /dev/null) || base=$(git rev-parse --quiet --verify HEAD~1) || return 0
    # The branch is origin's own: its last commit is what is new.
    if [ "$base" = "$(git rev-parse HEAD)" ]; then base=$(git rev-parse --quiet --verify HEAD~1) || return 0; fi
    echo "$base"
  fi
}

check_faults() {
  has clang-tidy-16 "common faults" || return 0
  local base
  base=$(base_commit "$@")
  if [ -z "$base" ]; then return 0; fi
  # The build compiles several files as one; clang-tidy wants the flags of each.
  mkdir -p build
  local flags=build/tidy llama=.deps/llama
  if ! { [ -e "$llama/.stamp" ] && cmake --preset release -B "$flags" -DRETENTIVEKV_UNITY=OFF \
    -DRETENTIVEKV_LLAMA_DIR="$PWD/$llama" -DRETENTIVEKV_COMMON_DIR="$PWD/$llama/include/llama-common"; } \
    > build/tidy.log 2>&1; then
    warn "before scripts/setup.sh there are no flags to compile with; common faults are not checked"
    return 0
  fi
  # Tests and code that is built per CPU take a minute each and find little. A file that the build does not know, for
  # example of the fuzzers, has no flags.
  git diff --name-only --diff-filter=d "$base" -- src apps bench | grep -E '\.cc$' |
    grep -vE '_test\.cc$|^src/kernels/' | while read -r file; do
    if grep -qF "\"$PWD/$file\"" "$flags/compile_commands.json"; then echo "$file"; fi
  done | xargs -r -P "$(nproc)" -n 1 clang-tidy-16 -p "$flags" --quiet 2> /dev/null |
    sed -n "s|^$PWD/||; /^[^ ]*:[0-9]*:[0-9]*: \(warning\|error\): /p" | sort -u || true
}

check_scripts() {
  has shellcheck "shell scripts" || return 0
  shellcheck -x -f gcc scripts/*.sh .ci/run || true
}

check_documents() {
  [ -e scripts/check_docs.py ] || return 0
  local rc=0
  python3 scripts/check_docs.py || rc=$?
  if [ "$rc" -gt 1 ]; then echo "scripts/check_docs.py:1: ended with $rc"; fi
}

readonly max_complexity=20 max_lines=600

# Production code: tests are tables, and may be long.
production() { cpp_files src apps include examples bench fuzz | grep -vE '_test\.cc$'; }

check_size() {
  production | xargs wc -l | awk -v max="$max_lines" '$2 != "total" && $1 > max {
    print $2 ":1: " $1 " lines; at most " max " in a file" }'
  if ! fetch_lizard; then
    warn "lizard could not be fetched; the complexity of functions is not checked"
    return 0
  fi
  production | PYTHONPATH=.deps/python xargs python3 -m lizard -C "$max_complexity" -w || true
}

install_tools
{
  check_format
  check_scripts
  check_documents
  check_size
  check_faults "$@"
} > "$findings"
cat "$findings"
n=$(wc -l < "$findings")
echo "$n findings"
[ "$n" -eq 0 ]
