#!/usr/bin/env bash
# Launches by rows, and GEMM 2 fed tile by tile, beside the best of before: what docs/kernels.md predicts of them.
#
#   MOE_SITE=FOLDER routing_campaign.sh all OUT [SECONDS]     the three below, one after the other; SECONDS each
#   MOE_SITE=FOLDER routing_campaign.sh check OUT [SECONDS]   60 random cases each of the forms that are new
#   MOE_SITE=FOLDER routing_campaign.sh race OUT [SECONDS]    racecheck of these on small cases
#   MOE_SITE=FOLDER routing_campaign.sh time OUT [SECONDS]    all of routing_configs.json, interleaved, five profiles and sizes
#
# MOE_SITE holds what pack.sh packed, with the pool routing/ in it:
#   one_library.py build build/routing benchmarks/h200_moe/routing_configs.json --dataset build/dataset
# A form that check or race does not pass is left out of the times. In OUT: routing.json (records of routing_run.py),
# check/records.jsonl, race-NAME/records.jsonl, logs.
set -uo pipefail
phase=${1:?all, check, race or time}; out=$(realpath -m "${2:?output folder}"); limit=${3:-500}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
site=${MOE_SITE:?source unpack.sh first}
python=${PYTHON:-python3}
RACED="two_t64_128 two_t64_128_h two_g128_256b two_n32_64_h default_h"

mkdir -p "$out"
[ -d "$out/variants" ] || "$python" "$here/one_library.py" variants "$site/routing" "$out/variants" || exit 1
new=$(cd "$out/variants" && ls -d two_* ./*_h | sed 's,^\./,,' | sort -u)

drive() {  # name of the output, limit in seconds, options ...
    local name=$1 seconds=$2; shift 2
    timeout -k 2 "$seconds" "$python" "$here/drive.py" "$out/variants" --out "$out/$name" --total-s $((seconds - 10)) \
        --no-public --no-time "$@" > "$out/$name.log" 2>&1
}

failed() {  # names of variants that a check or a sanitizer did not pass
    cat "$out"/check/records.jsonl "$out"/race-*/records.jsonl 2> "$out/absent.log" | "$python" -c '
import json, sys
print(*sorted({r["variant"] for r in map(json.loads, sys.stdin) if r["status"] not in ("PASSED", "NOT_RUN")}))'
}

check() { drive check "$limit" --random-cases 60 --largest 4096 --only $new; tail -qn 1 "$out/check.log"; }

race() {
    local jobs=()
    for name in $RACED; do
        drive "race-$name" "$limit" --only "$name" --sanitizer racecheck --random-cases 8 --largest 200 --deadline-s "$limit" &
        jobs+=($!)
    done
    wait "${jobs[@]}"
    tail -qn 1 "$out"/race-*.log
}

time_all() {
    for name in $(failed); do
        echo "$name is left out: $out has why"; mkdir -p "$out/failed"; mv "$out/variants/$name" "$out/failed/"
    done
    timeout -k 2 "$limit" "$python" "$here/routing_run.py" "$out/variants" --out "$out/routing.json" --quick \
        --ranges "$here/routing_ranges.json" --sizes 57 256 901 2048 4096 --rounds 6 --samples 4 --total-s $((limit - 30)) \
        | tee "$out/routing.log"
}

case $phase in
check) check ;;
race) race ;;
time) time_all ;;
all) check; race; time_all ;;
*) echo "no phase $phase"; exit 2 ;;
esac
