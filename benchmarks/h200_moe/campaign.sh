#!/usr/bin/env bash
# Everything that docs/results/h200-moe.md wants, in one go on the GPU machine, within a time budget.
#
#   MOE_SITE=FOLDER campaign.sh time OUT [SECONDS]    campaign/: public workloads timed, per-kernel profile, ncu
#   MOE_SITE=FOLDER campaign.sh check OUT [SECONDS]   campaign/, spread/ (side by side) and others/: 200 random cases
#   MOE_SITE=FOLDER campaign.sh sanitize OUT [SECONDS]  sanitize/: memcheck and racecheck on small cases; control/ likewise
#
# MOE_SITE holds what pack.sh packed: campaign/, spread/, others/ and sanitize/ are folders of built variants (see README.md).
# Every worker has a deadline per step and every call a limit, so that a hang costs its variant alone.
set -uo pipefail
phase=${1:?time, check or sanitize}; out=$(realpath -m "${2:?output folder}"); limit=${3:-120}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
site=${MOE_SITE:?source unpack.sh first}
python=${PYTHON:-python3}
mkdir -p "$out"

drive() {  # folder of variants, name of the output, limit in seconds, options ...
    local folder=$1 name=$2 seconds=$3; shift 3
    timeout -k 2 "$seconds" "$python" "$here/drive.py" "$folder" --out "$out/$name" --total-s $((seconds - 10)) "$@" \
        > "$out/$name.log" 2>&1
}

case $phase in
time)
    drive "$site/campaign" timed $((limit - 40)) --random-cases 8 --deadline-s 10
    drive "$site/campaign" profiled $((limit - SECONDS)) --random-cases 0 --no-public --profile --samples 10 \
        --sizes 1 56 901 11948 14107 --deadline-s 10
    tail -qn 1 "$out"/*.log ;;
check)
    jobs=()
    for part in 0 1 2; do  # three workers side by side: a check waits for the host most of its time
        mkdir -p "$out/part$part"
        for folder in $(find "$site/spread" "$site/campaign" -mindepth 1 -maxdepth 1 -name 'v_*' | sort | awk "NR % 3 == $part"); do
            ln -sfn "$folder" "$out/part$part/$(basename "$folder")"
        done
        drive "$out/part$part" "check$part" "$limit" --random-cases 200 --no-time & jobs+=($!)
    done
    drive "$site/others" others "$limit" --random-cases 20 --no-time & jobs+=($!)
    wait "${jobs[@]}"
    for part in 0 1 2; do rm -r "$out/part$part"; done
    tail -qn 1 "$out"/*.log ;;
sanitize)
    jobs=()
    for tool in memcheck racecheck; do
        for folder in "$site"/sanitize/*; do
            drive "$site/sanitize" "$tool-$(basename "$folder")" "$limit" --only "$(basename "$folder")" --sanitizer "$tool" \
                --no-public --random-cases 8 --largest 200 --no-time --deadline-s "$limit" & jobs+=($!)
        done
    done
    if [ -f "$site/control/control.so" ]; then
        timeout -k 2 "$limit" compute-sanitizer --tool racecheck "$python" "$here/racecheck_control.py" run "$site/control" \
            > "$out/racecheck-control.log" 2>&1 & jobs+=($!)
    fi
    wait "${jobs[@]}"
    tail -qn 1 "$out"/*.log ;;
esac
