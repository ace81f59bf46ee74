"""The command line. Commands import what they need when they run, so that ``--help`` stays quick."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with the code that the outcome calls for.

    Importing takes a moment in which Ctrl-C means what it means later: one line.
    """
    try:
        from tuner.cli.app import run

        code = run()
    except KeyboardInterrupt:
        print("tuner: interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


__all__ = ["main"]
