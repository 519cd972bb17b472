#!/usr/bin/env bash
# Measures every suite of rkv eval and writes docs/results/quality.md with their tables and curves.
#
#   scripts/quality.sh [rkv eval option...]      e.g. --conversations 2 --policies retentive,h2o
#
# RKV_QUALITY_DIR   where to write instead of docs/results
# RKV_TEXT_MODEL    a GGUF that writes prose, for the suites on text; default: the SmolLM2 that
#                   scripts/test.sh fetched; without one they are left out
#
# The suites on text take a day with all policies: --policies retentive,h2o --plain takes a few hours. Measurements are kept in build/quality/ as they end: stopped and started again
# with the same options, it goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${RKV_QUALITY_DIR:-docs/results}
text_model=${RKV_TEXT_MODEL:-.deps/models/SmolLM2-135M-Instruct.Q4_1.gguf}
rkv=build/release/apps/rkv
page=$out/quality.md
[ -x "$rkv" ] || scripts/setup.sh release rkv
mkdir -p build/quality "$out"

# measure SUITE OPTION...: adds a section to the page, of the tables by budget and the curves. All rows with their
# intervals, and accuracy by question, family and seed, are in the suite's own page.
measure() {
  local suite=$1
  shift
  echo "==> $suite" >&2
  "$rkv" eval "$suite" -t 1 -o md,csv,svg --out "$out" --resume "build/quality/$suite.jsonl" "$@"
  awk '/^## / { details = 0 } /^\| policy \| budget \|/ { details = 1 } !details' "$out/eval-$suite.md" |
    sed 's/^#/##/' >> build/quality/page.md
  printf '[By question, with intervals](eval-%s.md), [as CSV](eval-%s.csv)\n\n' "$suite" "$suite" >> build/quality/page.md
}

{
  echo "# Quality of each policy"
  echo
  echo "Made by \`scripts/quality.sh${*:+ $*}\`; [eval.md](../eval.md) describes the measurements, and"
  echo "[policies.md](../policies.md) the policies."
  echo
} > build/quality/page.md
for suite in deferred pages turns; do measure "$suite" --controls "$@"; done
if [ -e "$text_model" ]; then
  for suite in text-kv text-kl; do measure "$suite" -m "$text_model" "$@"; done
else
  echo "There was no model that writes prose, so the suites on text are left out." >> build/quality/page.md
fi
mv build/quality/page.md "$page"
echo "wrote $page"
