#!/usr/bin/env bash
# One sweep of the FP8 block-scale MoE space on this machine's GPU, from `tuner sweep` to a Solution that stock
# flashinfer-bench passes.
#
#   run.sh DATASET OUT [SWEEP_FLAG ...]
#
# DATASET: flashinfer-trace folder with the MoE definition, its 19 workloads and their routing tensors.
# OUT: folder for sweep.json, the database, the exported dataset, GPU utilisation samples and logs.
# Needs the project's gpu extra installed (or on PYTHONPATH).
set -uo pipefail
dataset=$(realpath "$1"); out=$(realpath -m "$2"); shift 2
here=$(cd "$(dirname "$0")/../.." && pwd)
definition=moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048
mkdir -p "$out"
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TUNER_CACHE_DIR="$out/cache"
export TUNER_DB_URL="sqlite:///$out/sweep.db" FIB_CACHE_PATH="$out/fib"

nvidia-smi --query-gpu=timestamp,utilization.gpu,clocks.sm,power.draw,temperature.gpu --format=csv,noheader,nounits -lms 250 \
    > "$out/gpu.csv" & sampler=$!
trap 'kill $sampler 2>/dev/null' EXIT

echo "== doctor"; python3 -m tuner doctor --dataset "$dataset"
echo "== sweep"; date +%s.%N > "$out/sweep.start"
python3 -m tuner sweep --target sm_90a --dataset "$dataset" --definition "$definition" --out "$out/export" --json "$@" \
    > "$out/sweep.json" 2> >(tee "$out/sweep.log" >&2)
code=$?; date +%s.%N > "$out/sweep.end"
echo "sweep ended with $code"
python3 -m tuner status --json > "$out/status.json"; python3 -m tuner status 1 | head -40
exit $code
