"""The ``tuner`` command without Ray: ``python -m tests.tuner.without_ray [--spoil FILE | --bug | --interrupt] WORD``.

The real builder and evaluator work in this process's children, one job after the other. ``--spoil`` puts a file where
the Solution's folder should go, when the search is over; ``--bug`` raises in the export; ``--interrupt`` is Ctrl-C
while workers start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.tuner import toy
from tuner.cli import app
from tuner.commands import sweep as run
from tuner.results import export

ROOT = Path(__file__).resolve().parents[2]


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command in a process of its own, in ``folder`` and with the database ``results.db`` there."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_"))}
    own = {"TUNER_DB_URL": f"sqlite:///{folder}/results.db", "TUNER_CACHE_DIR": f"{folder}/cache"}
    return subprocess.run(
        [sys.executable, "-m", "tests.tuner.without_ray", *arguments],
        capture_output=True, encoding="utf-8", cwd=folder, timeout=180,
        env={**clean, **own, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run one command."""
    run.open_runner = export.open_runner = toy.in_process  # type: ignore[assignment]
    conclude = run._conclude
    if arguments[0] == "--spoil":
        spoilt = Path(arguments[1])

        def spoil(*given: Any) -> Any:
            spoilt.write_text("in the way", encoding="utf-8")
            return conclude(*given)

        run._conclude = spoil
        arguments = arguments[2:]
    elif arguments[0] == "--bug":

        def broken(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("a bug")

        run.export_winners = broken
        arguments = arguments[1:]
    elif arguments[0] == "--interrupt":

        def interrupted(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

        run.open_runner = interrupted  # type: ignore[assignment]
        arguments = arguments[1:]
    return app.run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
