"""A long sweep of small trials, watched: ``python -m tests.chaos.soak --hours 2 --folder DIR``.

Writes ``curves.csv`` in DIR: every ten seconds, for each kind of process of the sweep, how many there are and what they
hold. About one config in twenty crashes, raises, answers wrongly or hangs, so that processes are replaced all the time.
"""

from __future__ import annotations

import argparse
import csv
import os
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.chaos.ground import DEFINITION, lay

EVERY_S = 10.0
TENS, WORKS = 90, 16
FIGURES = ("processes", "rss_mib", "shared_mib", "descriptors", "threads")
KINDS = (
    ("ray::BuilderActor", "builder actor"),
    ("ray::EvaluatorActor", "evaluator actor"),
    ("raylet", "raylet"),
    ("gcs_server", "gcs"),
    ("workers.sandbox.fork_server", "fork server or candidate"),
)


def fates() -> dict[int, str]:
    """Salt -> what its configs do wrong; the salt is a category, so the search cannot learn it from others."""
    found: dict[int, str] = {}
    plan = ((97, "crash"), (89, "raise"), (83, "wrong"), (101, "crash in build"), (103, "raise in build"))
    rare = ((701, "hang"), (709, "hang in build"), (719, "hang when timed"))
    for every, fate in (*plan, *rare):
        found |= dict.fromkeys(range(every, 10 * TENS, every), fate)
    return found


def main() -> int:
    """Run the sweep and watch it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--nice", type=int, default=19)
    options = parser.parse_args()
    ground = lay(options.folder, tens=TENS, works=WORKS, fates=fates(), repeats=20)
    settings = {
        "dataset": str(ground.dataset),
        "definition": DEFINITION,
        "space": str(ground.space),
        "regimes": [16],
        "max_trials": 2 * 10 * TENS * WORKS,
        "budget_s": options.hours * 3600,
        "final_share": 0.02,
        "sample_budget_s": 0.05,
        "max_samples": 20,
        "compile_s": 20,
        "check_s": 20,
        "measure_s": 20,
    }
    (options.folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_"))}
    database = options.folder / "results.db"
    with (options.folder / "out.txt").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tuner", "sweep", "--config", str(options.folder / "settings.yaml"), "--no-export"],
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.nice(options.nice) and None,
            env={**clean, "TUNER_DB_URL": f"sqlite:///{database}", "TUNER_CACHE_DIR": str(options.folder / "cache")},
        )
    watch(process, database, options.folder / "curves.csv")
    return process.wait()


def watch(process: subprocess.Popen[bytes], database: Path, path: Path) -> None:
    """Write the curves until the sweep ends."""
    began = time.monotonic()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at_s", "trials", "database_mib", "kind", *FIGURES])
        while process.poll() is None:
            trials, size = _trials(database), database.stat().st_size / 2**20 if database.exists() else 0.0
            for kind, held in sorted(_held(process.pid).items()):
                row = [f"{held[name]:.1f}" if "mib" in name else int(held[name]) for name in FIGURES]
                writer.writerow([f"{time.monotonic() - began:.0f}", trials, f"{size:.1f}", kind, *row])
            file.flush()
            try:
                process.wait(timeout=EVERY_S)
            except subprocess.TimeoutExpired:
                continue


def _trials(database: Path) -> int:
    if not database.exists():
        return 0
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            return int(connection.execute("SELECT coalesce(max(id), 0) FROM trial").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error:
        return 0


def _held(pid: int) -> dict[str, dict[str, float]]:
    """Figures by kind of process, added up over the processes of a kind."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(FIGURES, 0.0))
    root = psutil.Process(pid)
    for each in [root, *root.children(recursive=True)]:
        try:
            line = " ".join(each.cmdline())
            kind = "sweep" if each.pid == pid else _kind(line)
            status = _status(each)
            held = found[kind]
            held["processes"] += 1
            held["rss_mib"] += status.get("VmRSS", 0) / 1024
            held["shared_mib"] += status.get("RssShmem", 0) / 1024
            held["descriptors"] += each.num_fds()
            held["threads"] += each.num_threads()
        except psutil.Error:
            continue
    return found


def _kind(line: str) -> str:
    return next((kind for start, kind in KINDS if start in line), "other of Ray")


def _status(process: psutil.Process) -> dict[str, Any]:
    """The kilobytes in /proc/PID/status."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":")[::2] for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) for name, value in pairs}


if __name__ == "__main__":
    sys.exit(main())
