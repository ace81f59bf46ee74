"""The watcher of the GPU harness: its worker passes, hangs, dies and exits, and every variant gets its own verdict."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

DRIVE = Path(__file__).resolve().parents[2] / "benchmarks" / "h200_moe" / "drive.py"
STUB = """
import json, os, sys, threading

def emit(**fields):
    print(json.dumps(fields), flush=True)

emit(event="start", options=json.loads(sys.argv[1]))
for folder in sys.argv[2:]:
    name = os.path.basename(folder)
    emit(event="step", variant=name, phase="check")
    if name == "b_hangs":
        threading.Event().wait()
    if name == "c_dies":
        os.abort()
    times = [{"seq_len": 1, "rows": 2, "active_experts": 2, "floor_us": 20.0, "median_us": 30.0 + len(name),
              "low_us": 29.0, "high_us": 50.0, "config": {"name": name}}]
    result = {"status": "PASSED", "definition": "d", "checks": 1, "failed": [], "same_bits": True, "times": times}
    emit(event="result", variant=name, **result)
    if name == "d_poisons":
        sys.exit(3)
"""


def test_each_variant_is_judged_alone(tmp_path):
    shutil.copy(DRIVE, tmp_path)
    (tmp_path / "worker.py").write_text(STUB)
    for name in ("a_fine", "b_hangs", "c_dies", "d_poisons", "e"):
        (tmp_path / "variants" / name).mkdir(parents=True)
        (tmp_path / "variants" / name / "main.py").touch()
    command = [sys.executable, "drive.py", "variants", "--out", "out", "--deadline-s", "6"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    assert [(r["variant"], r["status"]) for r in records] == [
        ("a_fine", "PASSED"),
        ("b_hangs", "TIMEOUT"),
        ("c_dies", "CRASHED"),
        ("d_poisons", "PASSED"),
        ("e", "PASSED"),
    ]
    assert done.returncode == 1
    best = json.loads((tmp_path / "out" / "best-d.json").read_text())
    assert best == [
        {"seq_len": 1, "rows": 2, "active_experts": 2, "floor_us": 20.0, "median_us": 31.0, "config": {"name": "e"}}
    ]


def test_a_worker_that_cannot_start_ends_the_run(tmp_path):
    shutil.copy(DRIVE, tmp_path)
    (tmp_path / "worker.py").write_text("raise SystemExit('no device')")
    (tmp_path / "variants" / "a").mkdir(parents=True)
    (tmp_path / "variants" / "a" / "main.py").touch()
    command = [sys.executable, "drive.py", "variants", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "cannot start" in done.stderr
