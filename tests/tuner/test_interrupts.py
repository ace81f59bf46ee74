"""A signal that comes while a process forks."""

import subprocess
import sys

FORKS = """
import os
import signal
import time

# As a signal that came during the fork is: before the hooks that were registered earlier have ended.
os.register_at_fork(after_in_parent=lambda: os.getpid() != maker or signal.raise_signal(signal.SIGTERM))
from tuner.interrupts import outlive_forks

maker = os.getpid()
signal.signal(signal.SIGTERM, signal.default_int_handler)
outlive_forks(signal.SIGINT, signal.SIGTERM)
try:
    child = os.fork()
    if child == 0:
        os._exit(3 if signal.getsignal(signal.SIGTERM) is signal.default_int_handler else 4)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_signal_during_a_fork_is_not_lost():
    """A sweep that got SIGTERM as Ray was started went on, and waited for ever for a thread that wanted to log, as
    logging's hook had been left with its lock."""
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["interrupted", "3"], done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
