#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests and the full-size benchmark. Results also go to the folder $1.
set -u
cd "$(dirname "$0")/../.."
results=${1:-build/gpu}
mkdir -p "$results"
python=${PYTHON:-python3}
"$python" -m pytest -q tests/gpu 2>&1 | tee "$results/tests.txt"
"$python" -m app.cli.main bench --random-weights 7b --only 1x0,1x1,8x8,32x0,32x8,64x8,128x32r16 \
    --new-tokens 32 --repeats 1 --latency --http 32x8 > "$results/bench.txt" 2> "$results/bench.log"
cat "$results/bench.txt"
