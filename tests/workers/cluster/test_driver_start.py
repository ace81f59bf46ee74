"""A signal while Ray starts: one line, no text of Ray's, nothing left."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from workers.cluster.local import TEMP_ROOT

START = """
import os, sys
import ray._private.gc_collect_manager as made_while_connecting

def signalled(self, *_, **__):
    os.kill(os.getpid(), {number})
    for _ in range(10):
        pass

made_while_connecting.PythonGCThread.__init__ = signalled
from tuner.cli import main

sys.argv = ["tuner", "bench", "reference", "--definition", "rmsnorm_h1024", "--target", "cpu"]
main()
"""


def left_folders():
    """Folders of local clusters that no process holds."""
    found = set()
    for folder in TEMP_ROOT.glob("tnr_*"):
        with contextlib.suppress(OSError), open(folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.add(folder)
    return found


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_while_the_driver_connects_is_one_line_and_leaves_no_folder(number, tmp_path):
    before = left_folders()
    done = subprocess.run(
        [sys.executable, "-c", START.format(number=int(number))],
        env={**os.environ, "TUNER_DB_URL": f"sqlite:///{tmp_path}/t.db", "TUNER_CACHE_DIR": f"{tmp_path}/cache"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[1:] == ["tuner: interrupted"]
    assert left_folders() <= before


def test_what_python_says_while_ray_starts_arrives_and_what_cpp_says_does_not():
    code = (
        "import os, sys, workers.cluster.driver_start as d\n"
        "with d.starting():\n"
        "    os.write(2, b'from C++')\n"
        "    print('during', file=sys.stderr)\n"
        "os.write(2, b'after')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "during\nafter"


def test_a_process_without_a_standard_error_output_keeps_what_has_its_number():
    code = (
        "import os, sys, workers.cluster.driver_start as d\n"
        "other = os.open('/dev/null', os.O_RDONLY)\n"
        "assert other == 2 and sys.__stderr__ is None, other\n"
        "with d.starting():\n"
        "    os.read(2, 1)\n"
    )
    shell = f'exec {sys.executable} -c "$CODE" 2>&-'
    assert subprocess.run(["sh", "-c", shell], env={**os.environ, "CODE": code}).returncode == 0


def test_the_handler_of_a_program_that_python_is_embedded_in_is_put_back():
    """Python cannot name such a handler: ``getsignal`` gives None for it, which ``signal`` does not take."""
    code = (
        "import ctypes, os, signal, workers.cluster.driver_start as d\n"
        "harmless = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p)\n"
        "d._PyOS_setsig(signal.SIGTERM, harmless)\n"
        "signal.getsignal = lambda number: None\n"
        "with d.starting():\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
