#!/usr/bin/env bash
# The README's picture: the top of a report, as Chromium shows it.
#
#   docs/picture.sh REPORT.html docs/report.png
#
# REPORT.html is what `tuner report` writes. Take a sweep of a quiet machine whose rankings are settled.
set -euo pipefail
report=$(realpath "${1:?usage: picture.sh REPORT.html OUT.png}") out=$(realpath -m "${2:?usage: picture.sh REPORT.html OUT.png}")
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
    { echo "picture.sh needs Chromium: apt-get install chromium" >&2; exit 4; }
mouse=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4  # hides the plots' tool bars
"$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --blink-settings=$mouse \
    --window-size="${WIDTH:-1300},${HEIGHT:-1195}" --virtual-time-budget=8000 --screenshot="$out" "file://$report"
