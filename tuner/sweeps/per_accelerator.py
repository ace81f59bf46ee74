"""Sweeps on several kinds of hardware with one command: a sweep on each, side by side on one Ray cluster.

Measurements of different hardware never share a record, a study or a winner, so one loop would have nothing in common:
each kind gets a ``tuner sweep`` process with its own evaluators and a fair part of the builders, all write to one
database, and the artifact cache of a building machine serves them all. A kind that fails does not stop the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from search_spaces.targets import NAMES, target_of_accelerator
from tuner.errors import EXIT_OK, UsageError
from tuner.settings import ENVIRONMENT, SweepSettings
from workers.sandbox import interpreter

_SETTING_OF = {variable: name for name, variables in ENVIRONMENT.items() for variable in variables}


@dataclass(frozen=True)
class KindResult:
    """How the sweep on one kind of hardware ended, and the output of its command."""

    accelerator: str
    exit_code: int
    output: str


def run_on_each(settings: SweepSettings, arguments: Sequence[str], say: Callable[[str], None]) -> list[KindResult]:
    """Sweep on every one of ``settings.accelerators`` at the same time.

    Args:
        settings: Settings of all sweeps; each has its accelerator's target unless one is given.
        arguments: Further arguments of each command (``--json``, ``--out``).
        say: Called with each line that the sweeps print.

    Raises:
        UsageError: No cluster is named, or an accelerator has no target.
        ClusterError: The cluster has no such machine; nothing is started then.
        KeyboardInterrupt: All sweeps were interrupted too and have saved their state.
    """
    from workers.cluster.machines import survey

    if settings.ray_address is None:
        raise UsageError("several --accelerators need the --ray-address of a cluster that has them")
    kinds = settings.accelerators
    builders = survey(settings.ray_address, [(target_for(settings, kind), kind) for kind in kinds])
    share = settings.builders or max(1, builders // len(kinds))
    with tempfile.TemporaryDirectory(prefix="tuner-kinds-") as folder:
        running = [_start(settings, kind, share, arguments, Path(folder), say) for kind in kinds]
        try:
            return [sweep.wait() for sweep in running]
        except KeyboardInterrupt:
            for sweep in running:
                sweep.interrupt()
            for sweep in running:
                sweep.wait()
            raise


def target_for(settings: SweepSettings, accelerator: str) -> str:
    """The target of a sweep on an accelerator: the one that is given, else the accelerator's own.

    Raises:
        UsageError: There is none.
    """
    target = settings.target or target_of_accelerator(accelerator)
    if target is None:
        raise UsageError(f"accelerator {accelerator!r} has no target of its own; give --target {' or '.join(NAMES)}")
    return target


class _Running:
    """A sweep's process and the threads that read its output."""

    def __init__(self, accelerator: str, process: subprocess.Popen[str], say: Callable[[str], None]) -> None:
        self._accelerator = accelerator
        self._process = process
        self._output: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            threading.Thread(target=_read, args=(process.stdout, self._output.append), daemon=True),
            threading.Thread(
                target=_read, args=(process.stderr, lambda line: say(f"{accelerator}: {line.rstrip()}")), daemon=True
            ),
        ]
        for reader in self._readers:
            reader.start()

    def interrupt(self) -> None:
        """Interrupt the process, as Ctrl-C would."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> KindResult:
        """Wait for the process to end."""
        code = self._process.wait()
        for reader in self._readers:
            reader.join()
        return KindResult(self._accelerator, code, "".join(self._output))


def _agreeing(document: Mapping[str, Any]) -> dict[str, str]:
    """The environment without variables that say anything else than these settings: they take precedence over a file.
    None is set: where a sweep goes on, it names what its user's environment does not say."""
    return {k: v for k, v in os.environ.items() if k not in _SETTING_OF or str(document.get(_SETTING_OF[k])) == v}


def _start(
    settings: SweepSettings,
    accelerator: str,
    builders: int,
    arguments: Sequence[str],
    folder: Path,
    say: Callable[[str], None],
) -> _Running:
    own = settings.model_copy(
        update={"accelerators": (accelerator,), "target": target_for(settings, accelerator), "builders": builders}
    )
    document = {k: v for k, v in own.model_dump(mode="json").items() if v is not None}
    file = folder / f"{accelerator}.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    env = _agreeing(document)
    env["PYTHONPATH"] = interpreter.python_path(*os.environ.get("PYTHONPATH", "").split(os.pathsep))
    process = subprocess.Popen(
        interpreter.command("tuner", "sweep", "--config", str(file), *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
        env=env,
    )
    return _Running(accelerator, process, say)


def _read(stream: IO[str], keep: Callable[[str], None]) -> None:
    for line in stream:
        keep(line)


def exit_code(results: Sequence[KindResult]) -> int:
    """0 if all sweeps ended well, else the first other code."""
    return next((r.exit_code for r in results if r.exit_code != EXIT_OK), EXIT_OK)
