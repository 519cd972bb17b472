#!/usr/bin/env bash
# From nothing to answers about a picture: sets up, builds, and asks the bundled model about a
# bundled page, with the whole KV cache and with part of it. Again, it takes seconds.
#
#   scripts/demo.sh
set -euo pipefail
if [ $# -gt 0 ]; then
  echo "usage: scripts/demo.sh, without arguments; build/release/apps/rkv run asks other questions" >&2
  exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh release rkv # Tests take as long to build again, and wait until they are run.

picture=models/reference/sample.png
ask() {
  local command=(build/release/apps/rkv run --image "$picture" --temp 0
    -p "What is the track?" -p "Which score is given?" -p "What does desk say?" -p "Read the width." "$@")
  printf '\n\033[1m$%s\033[0m\n' "$(printf ' %q' "${command[@]}")"
  "${command[@]}"
}
ask --policy full
ask --budget 15%
ask --policy streaming --budget 50%
