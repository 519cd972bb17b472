#!/usr/bin/env bash
# Measures this machine beside stock llama.cpp and writes the tables to bench/results/NAME/.
#
#   scripts/bench.sh NAME [rkv bench option...]      e.g. scripts/bench.sh ryzen-7840u -t 8
#
# RKV_BENCH_DIR   where to write instead of bench/results
#
# Options are those that the tables do not set themselves, such as -t, -b, -ub.
# Nothing else should run meanwhile. It takes an hour or two on two cores, half of which reads the prompt of
# 16384 tokens, and 9 GiB of memory. Stopped and started again, it goes on with the table that it was at;
# the models are made in build/bench/ (4.4 GiB).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -eq 0 ]; then
  echo "usage: scripts/bench.sh NAME [rkv bench option...], where NAME is what the machine is called" >&2
  exit 2
fi
out=${RKV_BENCH_DIR:-bench/results}/$1
shift
rkv=build/release/apps/rkv
kernels=build/release/bench/kernel_bench
scripts/setup.sh release rkv kernel_bench
mkdir -p build/bench "$out"

# table FILE MODEL OPTION...: a table of `rkv bench`, of which the first lines tell the command.
table() {
  local file=$out/$1.md model=build/bench/$2.gguf
  shift 2
  if [ -e "$file" ]; then return 0; fi
  if [ ! -e "$model" ]; then
    "$rkv" bench --make "$(basename "$model" .gguf)" --out "$model.part"
    mv "$model.part" "$model"
  fi
  echo "==> $file" >&2
  "$rkv" bench -m "$model" "$@" --out "$file.part"
  sed -i 's/\.md\.part/.md/' "$file.part" # in the command that it tells
  mv "$file.part" "$file"
}

if [ ! -e "$out/kernels.txt" ]; then
  echo "==> $out/kernels.txt" >&2
  "$kernels" --benchmark_filter='Read|MultiplyAdd|AttendGroup' --benchmark_repetitions=3 \
    --benchmark_counters_tabular=true > "$out/kernels.txt.part"
  mv "$out/kernels.txt.part" "$out/kernels.txt"
fi
decode=(-p 0 -n 64 --random-depth --compress prompt --policies "full,retentive,streaming" --budgets "20%,5%")
# After no prompt there is little to tell apart, so it takes many repetitions.
table qwen2-1.5b-0 qwen2-1.5b -p 0 -n 64 -d 0 -r 12 -ctk f16 --policies full,retentive --budgets 20% "$@"
table qwen2-1.5b qwen2-1.5b -d 0,4096 -r 3 "${decode[@]}" "$@"
table qwen2-1.5b-16384 qwen2-1.5b -d 16384 -r 3 "${decode[@]}" "$@"
table llava-1.5-7b llava-1.5-7b -d 4096 -r 2 "${decode[@]}" "$@"
prompt=(-n 0 -ctk f16 --budgets 20%)
table prompt-4096 qwen2-1.5b -p 4096 -r 2 "${prompt[@]}" --policies full,retentive --compress prompt "$@"
table prompt-16384 qwen2-1.5b -p 16384 -r 1 "${prompt[@]}" --policies retentive "$@"
