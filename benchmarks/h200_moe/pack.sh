#!/usr/bin/env bash
# Pack what a GPU machine without the CuTe DSL needs to run variants that were compiled elsewhere.
#
#   pack.sh DEST [FOLDER ...]
#
# DEST gets runtime.tar.xz (apache-tvm-ffi for CPython 3.12 x86-64 and the DSL's runtime library, about 14 MB), unpack.sh,
# and folders.tar.xz with the named folders of built variants or parts, each under its own last name. A DEST that has a
# runtime.tar.xz keeps it. PYTHON names the interpreter that has nvidia-cutlass-dsl and pip (default python3).
# On the GPU machine: `. DEST/unpack.sh`.
set -euo pipefail
dest=$(realpath -m "${1:?usage: pack.sh DEST [FOLDER ...]}"); shift
python=${PYTHON:-python3}
tvm_ffi=apache-tvm-ffi==0.1.15.post2
mkdir -p "$dest"

if [ ! -f "$dest/runtime.tar.xz" ]; then
    tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
    platforms=()
    for n in 17 24 27 28; do platforms+=(--platform "manylinux_2_${n}_x86_64"); done
    "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        "${platforms[@]}" -d "$tmp/wheel" "$tvm_ffi"
    "$python" -m zipfile -e "$tmp"/wheel/*.whl "$tmp/site"
    "$python" - "$tmp/site" <<'PY'
import importlib.util, pathlib, shutil, sys
package = pathlib.Path(importlib.util.find_spec("nvidia_cutlass_dsl").submodule_search_locations[0])
shutil.copy(package / "cu13" / "lib" / "libcute_dsl_runtime.so", sys.argv[1])
PY
    tar -C "$tmp/site" -c . | xz -T0 -6 > "$dest/runtime.tar.xz"
fi

if [ $# -gt 0 ]; then
    arguments=()
    for folder in "$@"; do
        arguments+=(-C "$(dirname "$(realpath "$folder")")" "$(basename "$(realpath "$folder")")")
    done
    tar -c --exclude=__pycache__ "${arguments[@]}" | xz -T0 -3 > "$dest/folders.tar.xz"
fi

cat > "$dest/unpack.sh" <<'SH'
# Source it on the GPU machine: packages and folders land in $MOE_SITE (default ~/moe-site), and PYTHONPATH is set.
_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export MOE_SITE=${MOE_SITE:-$HOME/moe-site}
mkdir -p "$MOE_SITE"
[ -f "$MOE_SITE/libcute_dsl_runtime.so" ] || xz -dc "$_here/runtime.tar.xz" | tar -x -C "$MOE_SITE"
[ -f "$_here/folders.tar.xz" ] && xz -dc "$_here/folders.tar.xz" | tar -x -C "$MOE_SITE"
export PYTHONPATH="$MOE_SITE${PYTHONPATH:+:$PYTHONPATH}"
export LD_LIBRARY_PATH="$MOE_SITE${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
SH
du -sh "$dest"
