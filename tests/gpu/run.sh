#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests and the full-size benchmark. Results also go to the folder $1.
set -u
cd "$(dirname "$0")/../.."
results=${1:-build/gpu}
mkdir -p "$results"
python=${PYTHON:-python3}
"$python" -m pytest -q tests/gpu --ignore tests/gpu/test_caps.py 2>&1 | tee "$results/tests.txt"
# 7B on cards of 24, 16 and 12 GB by format of the weights, one process each: a row per workload, and what was taken
for weights in bfloat16 float8 int8 int4; do
    "$python" -m pytest -q -s tests/gpu/test_caps.py -k "within_the_cap and $weights" 2>&1
done | tee "$results/caps.txt"
"$python" -m pytest -q tests/gpu/test_caps.py -k too_small 2>&1 | tee -a "$results/caps.txt"
# memory, decode rate and first token by format of the weights
"$python" tests/gpu/formats.py 2>&1 | tee "$results/formats.txt"
"$python" -m app.cli.main bench --random-weights 7b --only 1x0,1x1,8x8,32x0,32x8,64x8,128x32r16 \
    --new-tokens 32 --repeats 1 --latency --http 32x8 > "$results/bench.txt" 2> "$results/bench.log"
cat "$results/bench.txt"
