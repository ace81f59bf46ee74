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
from collections import Counter
from dataclasses import dataclass

import psutil
import pytest

from db.store import Store

pytestmark = pytest.mark.slow

MOMENTS = 10
LONGEST_S = 60.0
"""Of a command that is measured to know what moments it has; it is stopped then."""
ALLOWED_CODES = {130, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM}
"""130 once Python runs our code; before that the interpreter itself ends by the signal."""
FOREIGN = re.compile(
    r"\x1b\[|logging\.cc|\(unknown\)|ray\.exceptions|\*\*\* SIG"
    r"|Traceback(?=[^$]*(tuner|workers|db|search_spaces)/(?!__(init|main)__)\w+)"
)
"""Ray's text, or a traceback with a frame of ours. In the first moments Python imports its own library, and says so."""

RMSNORM = ["--definition", "rmsnorm_h1024", "--space", "examples/rmsnorm"]
COMMANDS = {
    "sweep": ["sweep", *RMSNORM, "--max-trials", "400", "--no-reuse", "--out", "{folder}/swept"],
    "bench": ["bench", "default", "reference", "--definition", "rmsnorm_h1024", "--target", "cpu", "--rounds", "2000"],
    "export": ["export", "--out", "{folder}/exported"],
    "compile": ["compile", "--space", "moe_fp8_cute", "--target", "sm_90a", "--sample", "40"],
    "init": ["init", "{folder}/kernel.py", "--definition", "rmsnorm_h1024", "--out", "{folder}/space-{now}"],
    "verify": ["verify", "--space", "moe_fp8_cute", "--target", "sm_90a", "--sample", "2"],
    "report": ["report", "--out", "{folder}/page.html"],
    "study": ["study", "export", "1", "--out", "{folder}/study-{now}.db"],
    "serve": ["serve", "--port", "0"],
    "doctor": ["doctor"],
    "profile": ["profile", "--definition", "rmsnorm_h1024"],
    "status": ["status"],
    "explain": ["explain", "--space", "moe_fp8_cute", "--target", "sm_90a"],
    "best": ["best", "--definition", "rmsnorm_h1024", "--axes", "batch_size=1"],
}

KERNEL = """
import torch
import triton
import triton.language as tl


@triton.autotune([triton.Config({"COLUMNS": 64 * n}, num_warps=n) for n in (1, 2, 4)], key=["columns"])
@triton.jit
def add_up(x, weight, out, columns, COLUMNS: tl.constexpr):
    at = tl.arange(0, COLUMNS)
    tl.store(out + tl.program_id(0) * columns + at, tl.load(x + at) * tl.load(weight + at))


def sums(hidden_states, weight):
    out = torch.zeros_like(hidden_states)
    add_up[(hidden_states.shape[0],)](hidden_states, weight, out, hidden_states.shape[1])
    return out
"""


@dataclass(frozen=True)
class Stop:
    """How a command ended that got a signal after ``after_s`` seconds."""

    command: str
    after_s: float
    number: int
    code: int
    back_s: float
    stderr: str
    left: tuple[str, ...]
    was_over: bool
    sweep_state: str | None

    @property
    def faults(self):
        """What is wrong with it, as words."""
        found = [f"left: {what}" for what in self.left]
        if FOREIGN.search(self.stderr):
            found.append("text that is not ours")
        if self.was_over or self.code == 0:  # it was just about to end by itself
            return found
        if self.code not in ALLOWED_CODES:
            found.append(f"exit code {self.code}")
        said = [line for line in self.stderr.splitlines() if "interrupted" in line]
        if self.code == 130 and len(said) != 1:
            found.append(f"{len(said)} lines say that it was interrupted")
        if self.sweep_state == "RUNNING":
            found.append("the sweep counts as running")
        return found


def environment(folder):
    (folder / "tmp").mkdir(exist_ok=True)
    return {
        **os.environ,
        "TUNER_DB_URL": f"sqlite:///{folder}/t.db",
        "TUNER_CACHE_DIR": f"{folder}/cache",
        "TMPDIR": f"{folder}/tmp",
        "STOP_ANYTIME": str(folder),
    }


def start(folder, name):
    now = time.monotonic_ns()
    words = [sys.executable, "-m", "tuner", *(w.format(folder=folder, now=now) for w in COMMANDS[name])]
    # What compile has built once it would not build again.
    own = {"TUNER_CACHE_DIR": f"{folder}/cache/{now}"} if name == "compile" else {}
    return subprocess.Popen(
        words,
        env={**environment(folder), **own},
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
    return found


def files_left(folder):
    """Files and folders that were to be gone: temporary ones, halves of results, what is staged in the cache."""
    places = [(folder / "tmp", "*"), (folder, "**/.tuner-*"), (folder, "**/*.part"), (folder / "cache", "**/stage*/*")]
    found = [path for root, pattern in places for path in root.glob(pattern)]
    # The CuTe DSL keeps a cache there, of whatever process compiles.
    return [str(path) for path in found if not (path / "cutlass_python_cache").is_dir()]


def newest_sweep(folder):
    with Store.open(f"sqlite:///{folder}/t.db") as store:
        sweep = store.sweeps.newest(limit=1)[0]
        return sweep.id, str(sweep.state)


def stop(folder, name, after_s, number):
    """Start a command and stop it. SIGINT goes to the whole group, as a terminal sends it, SIGTERM to the command."""
    before = newest_sweep(folder)
    process = start(folder, name)
    try:
        process.wait(timeout=after_s)
        was_over = True
    except subprocess.TimeoutExpired:
        was_over = False
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    back_s = time.monotonic() - began
    deadline = time.monotonic() + 20  # the last of a killed cluster's processes notice a closed socket
    while running(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = (*running(folder), *files_left(folder))
    after = newest_sweep(folder)
    state = None if after == before else after[1]
    return Stop(name, after_s, number, process.returncode, back_s, err, left, was_over, state)


def prepared(folder):
    """A finished sweep, which export, report and bench need, and a kernel for init."""
    (folder / "kernel.py").write_text(KERNEL)
    words = ["sweep", *RMSNORM, "--max-trials", "3", "--no-export"]
    subprocess.run([sys.executable, "-m", "tuner", *words], env=environment(folder), check=True, capture_output=True)


def stops(folder, name, moments=MOMENTS, seed=0):
    rng = random.Random(f"{name} {seed}")
    process = start(folder, name)
    began = time.monotonic()
    try:
        process.wait(timeout=LONGEST_S)
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
        assert not ended.faults, ended


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as made:
        prepared(Path(made))
        for command in sys.argv[1:] or COMMANDS:
            found = [s for s in stops(Path(made), command) if not s.was_over]
            faults = Counter(fault for s in found for fault in s.faults)
            print(
                json.dumps(
                    {
                        "command": command,
                        "stopped": len(found),
                        "codes": sorted({s.code for s in found}),
                        "slowest_s": round(max((s.back_s for s in found), default=0.0), 2),
                        "back_s": [round(s.back_s, 2) for s in found],
                        "after_s": [round(s.after_s, 1) for s in found],
                        "load": round(os.getloadavg()[0], 1),
                        "faults": dict(faults),
                        "examples": [s.stderr[-1500:] for s in found if s.faults][:3],
                    }
                ),
                flush=True,
            )
