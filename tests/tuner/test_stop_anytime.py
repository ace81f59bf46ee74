"""Ctrl-C and SIGTERM at random moments of every long command: one line, nothing left running, no text that is not ours.

Moments are drawn from the command's own duration, so that imports, Ray's start, builds, measurements and the end are
all met. ``python -m tests.tuner.test_stop_anytime`` prints the table of docs/reliability.md.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil
import pytest

pytestmark = pytest.mark.slow

MOMENTS = 10
ALLOWED_CODES = {130, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM}
"""130 once Python runs our code; before that the interpreter itself ends by the signal."""
FOREIGN = re.compile(
    r"\x1b\[|logging\.cc|\(unknown\)|ray\.exceptions|\*\*\* SIG"
    r"|Traceback(?=[^$]*(tuner|workers|db|search_spaces)/(?!__(init|main)__)\w+)"
)
"""Ray's text, or a traceback with a frame of ours. In the first moments Python imports its own library, and says so."""

COMMANDS = {
    "sweep": [
        "sweep",
        "--definition",
        "rmsnorm_h1024",
        "--space",
        "examples/rmsnorm",
        "--max-trials",
        "400",
        "--no-export",
    ],
    "bench": ["bench", "default", "reference", "--definition", "rmsnorm_h1024", "--target", "cpu", "--rounds", "2000"],
    "export": ["export", "--out", "{folder}/exported"],
    "compile": ["compile", "--space", "moe_fp8_cpu", "--target", "cpu", "--sample", "40"],
    "report": ["report", "--out", "{folder}/page.html"],
    "doctor": ["doctor"],
    "status": ["status"],
}


@dataclass(frozen=True)
class Stop:
    """How a command ended that got a signal after ``after_s`` seconds."""

    command: str
    after_s: float
    code: int
    back_s: float
    stderr: str
    left: tuple[str, ...]
    was_over: bool


def environment(folder):
    return {
        **os.environ,
        "TUNER_DB_URL": f"sqlite:///{folder}/t.db",
        "TUNER_CACHE_DIR": f"{folder}/cache",
        "STOP_ANYTIME": str(folder),
    }


def start(folder, name):
    words = [sys.executable, "-m", "tuner", *(w.format(folder=folder) for w in COMMANDS[name])]
    return subprocess.Popen(
        words,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def running(folder):
    """Command lines of processes that came from commands in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("STOP_ANYTIME") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:120])
        except psutil.Error:
            continue
    return tuple(found)


def stop(folder, name, after_s, number):
    process = start(folder, name)
    try:
        process.wait(timeout=after_s)
        was_over = True
    except subprocess.TimeoutExpired:
        was_over = False
        process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    back_s = time.monotonic() - began
    deadline = time.monotonic() + 20  # the last of a killed cluster's processes notice a closed socket
    while running(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    return Stop(name, after_s, process.returncode, back_s, err, running(folder), was_over)


def prepared(folder):
    """A finished sweep, which export, report and bench need."""
    words = [
        "sweep",
        "--definition",
        "rmsnorm_h1024",
        "--space",
        "examples/rmsnorm",
        "--max-trials",
        "3",
        "--no-export",
    ]
    subprocess.run([sys.executable, "-m", "tuner", *words], env=environment(folder), check=True, capture_output=True)


def stops(folder, name, moments=MOMENTS, seed=0):
    rng = random.Random(f"{name} {seed}")
    process = start(folder, name)
    began = time.monotonic()
    try:
        process.wait(timeout=25)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
    length_s = time.monotonic() - began
    for _ in range(moments):
        yield stop(folder, name, rng.uniform(0, length_s), rng.choice((signal.SIGINT, signal.SIGTERM)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_at_any_moment_ends_a_command_in_one_line(name, tmp_path):
    prepared(tmp_path)
    for ended in stops(tmp_path, name):
        assert not ended.left, ended
        assert not FOREIGN.search(ended.stderr), ended
        if not ended.was_over and ended.code != 0:  # 0: it was just about to end by itself
            assert ended.code in ALLOWED_CODES, ended


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as made:
        prepared(Path(made))
        for command in sys.argv[1:] or COMMANDS:
            found = [s for s in stops(Path(made), command) if not s.was_over]
            print(
                json.dumps(
                    {
                        "command": command,
                        "stopped": len(found),
                        "codes": sorted({s.code for s in found}),
                        "slowest_s": round(max((s.back_s for s in found), default=0.0), 2),
                        "foreign_text": sum(FOREIGN.search(s.stderr) is not None for s in found),
                        "left_running": sum(bool(s.left) for s in found),
                        "examples": [s.stderr[-300:] for s in found if FOREIGN.search(s.stderr) is not None][:2],
                    }
                ),
                flush=True,
            )
