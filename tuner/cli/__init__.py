"""The command line. Commands import what they need when they run, so that ``--help`` stays quick."""

from __future__ import annotations

import atexit
import os
import signal
import sys


def main() -> None:
    """Run the command line and exit with the code that the outcome calls for.

    Importing takes a moment in which Ctrl-C means what it means later: one line.
    """
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
        from tuner.cli.app import run

        code = run()
    except KeyboardInterrupt:
        print("tuner: interrupted", file=sys.stderr)
        code = 130
    if code == 130:
        # Whoever stopped a command waits for the prompt, and taking torch and Ray down again takes a second or two.
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


__all__ = ["main"]
