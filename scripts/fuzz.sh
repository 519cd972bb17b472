#!/usr/bin/env bash
# Throws mutated bytes at what reads bytes from elsewhere, for so many seconds each: requests to
# rkv serve, saved conversations, model files, pictures. Stops at the first crash, leak or hang, and
# says which input it was. What was found worth keeping stays in build/fuzz/corpus for the next time.
#
#   scripts/fuzz.sh [SECONDS] [request|session|gguf|picture ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then targets=(request session gguf picture); fi

scripts/setup.sh fuzz
corpus=build/fuzz/corpus
build/fuzz/fuzz/make_fuzz_seeds "$corpus/seeds"
# Bytes of the longest inputs: about what the seeds have.
declare -A limits=([request]=4096 [session]=8192 [gguf]=131072 [picture]=4096)
for target in "${targets[@]}"; do
  printf '\033[1m==> %s for %s s\033[0m\n' "$target" "$seconds"
  mkdir -p "$corpus/$target" "build/fuzz/found"
  # A length that lies is an allocation that fails, or one as large as it says: not a finding.
  ASAN_OPTIONS="allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}" \
    "build/fuzz/fuzz/${target}_fuzz" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 \
    -fork=1 -ignore_ooms=1 -ignore_timeouts=0 \
    -max_len="${limits[$target]}" -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="build/fuzz/found/$target-" "$corpus/$target" "$corpus/seeds/$target"
done
