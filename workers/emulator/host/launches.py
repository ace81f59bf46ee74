"""What a built Solution launches, found by calling it in a process of its own on a mock CUDA runtime."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EmulatorError
from ..machine import Launch

HERE = Path(__file__).resolve().parent


class HostError(EmulatorError):
    """The Solution's host code does not build, load or run."""


@dataclass(frozen=True)
class Call:
    """One call of ``run``.

    Args:
        function: Compiled host function that served it; its PTX is ``artifacts/FUNCTION.ptx``.
        launches: In order.
        memory: Name -> (address, bytes) of every tensor and section of the workspace.
    """

    function: str
    launches: list[Launch]
    memory: dict[str, tuple[int, int]]


def compile_mock(folder: Path) -> Path:
    """The mock runtime as a library in ``folder``.

    Raises:
        HostError: There is no C compiler.
    """
    library = folder / "libmock.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "mock_runtime.c")]
    _run(command, folder)
    return library


def build_with_ptx(package: Path) -> None:
    """Compile a staged package and leave the PTX of each config in ``artifacts``.

    Raises:
        HostError: It does not compile.
    """
    _run([sys.executable, str(HERE / "keep_ptx.py"), package.name], package.parent)


def _environment(folder: Path) -> dict[str, str]:
    """Variables of a process that may be killed: what it leaves of its own goes with the folder."""
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "TMPDIR": str(folder)}


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_environment(folder))
    except OSError as error:
        raise HostError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        raise HostError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-1500:]}")


class Host:
    """The process that calls a Solution.

    Args:
        mock: Library of :func:`compile_mock`.
        package: Built package.
    """

    def __init__(self, mock: Path, package: Path):
        self.package = package
        command = [sys.executable, str(HERE / "probe.py"), str(mock), str(package)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command,
            text=True,
            env=_environment(package.parent),
            cwd=package.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer of probe.py.

        Raises:
            HostError: The process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            raise HostError(f"the process that calls the Solution ended with code {code} at {request}: "
                            f"{self._errors.read().strip()[-800:]}")  # fmt: skip
        answer: dict[str, Any] = json.loads(line)
        return answer

    def call(self, tokens: int, row: int | None = None, offset: int = 0, scaling: float = 2.5) -> Call:
        """One ``run``; ``row`` of the dispatch table, None for the one that serves the size.

        Raises:
            HostError: ``run`` raised an exception, or the process has ended.
        """
        answer = self.ask({"tokens": tokens, "row": row, "raw": True, "offset": offset, "scaling": scaling})
        if "error" in answer:
            raise HostError(answer["error"])
        launches = [
            Launch(
                a["kernel"],
                [bytes.fromhex(argument) for argument in a["arguments"]],
                (a["grid"][0], a["grid"][1], a["grid"][2]),
                int(np.prod(a["block"])),
                int(np.prod(a["cluster"])),
                a["smem"],
                a["pdl"],
                int(np.prod(a["fallback"])) if a["fallback"] else 0,
            )
            for a in answer["launches"]
        ]
        memory = {name: (int(at), int(size)) for name, (at, size) in answer["memory"].items()}
        return Call(answer["function"], launches, memory)

    def close(self) -> None:
        """End the process that calls the Solution."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()


@contextlib.contextmanager
def opened(mock: Path, package: Path) -> Iterator[Host]:
    """A host that is closed at the end."""
    host = Host(mock, package)
    try:
        yield host
    finally:
        host.close()
