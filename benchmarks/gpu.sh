#!/usr/bin/env bash
# All that needs a GPU, in one call: tests, memory and speed, quality. Record what it prints in README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python -m pytest -n 0 -m gpu
for precision in float32 float16; do
    python benchmarks/memory.py --device cuda --precision "$precision"
    python benchmarks/memory.py --device cuda --precision "$precision" --shape 64,512,512
done
timeout 480 python benchmarks/engine_gpu.py
python benchmarks/real_stacks.py --device cuda
timeout 200 python benchmarks/guard.py --device cuda --only cost
