"""Faults: each a small class whose time and place come from the seed. The scenario asks ``step`` again and again.

A fault that makes the sweep process end is undone by ``repair`` before the sweep is resumed.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.chaos.ground import HOSTILE

if TYPE_CHECKING:
    from tests.chaos.scenario import Run


class Fault:
    """One thing that goes wrong.

    Args:
        rng: Decides when and how.
        trials: About how many trials the run will have.
    """

    needs: frozenset[str] = frozenset()
    """What the run must have for it: ``postgres``, ``sqlite``, ``small disk``."""
    spoils: frozenset[str] = frozenset()
    """States that good candidates may get from it."""

    def __init__(self, rng: random.Random, trials: int) -> None:
        self.rng = rng
        self.at = rng.randrange(1, max(2, trials - 1))
        """Committed trials at which it strikes."""
        self.done = False
        self.struck = False
        """Whether it found something to strike."""

    def step(self, run: Run, committed: int) -> None:
        """Called every few milliseconds while the sweep process runs."""
        if not self.done and committed >= self.at:
            self.done = self.struck = True
            self.strike(run)

    def strike(self, run: Run) -> None:
        """Do it."""

    def repair(self, run: Run) -> None:
        """Undo it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}@{self.at}"


class KillSweep(Fault):
    """kill -9 of the sweep process, some milliseconds after a commit."""

    def strike(self, run: Run) -> None:
        time.sleep(self.rng.uniform(0, 0.03))
        run.signal(signal.SIGKILL)


class StopSweep(Fault):
    """Ctrl-C, or what an orchestrator sends."""

    def strike(self, run: Run) -> None:
        run.signal(self.rng.choice((signal.SIGINT, signal.SIGTERM)))


class FreezeSweep(Fault):
    """The process is stopped for a moment, as a suspended machine does."""

    def strike(self, run: Run) -> None:
        run.signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.05, 0.5))
        run.signal(signal.SIGCONT)


class SecondSweep(Fault):
    """Another process resumes the sweep while this one runs: it must be refused, and change nothing."""

    def strike(self, run: Run) -> None:
        code, said = run.second()
        if run.is_alive() and (code != 4 or "is running, held by" not in said):
            run.violation(f"a second process on the sweep ended with {code}: {said[-300:]}")


class ClockJump(Fault):
    """The sweep process's wall clock jumps, by minutes to months, either way."""

    def strike(self, run: Run) -> None:
        run.clock.write_text(str(self.rng.choice((-1, 1)) * self.rng.choice((60, 3600, 86400, 1e7))))

    def repair(self, run: Run) -> None:
        run.clock.unlink(missing_ok=True)


class Hostile(Fault):
    """A candidate that crashes, raises, hangs or answers wrongly; planted in the sources."""

    quick = tuple(fate for fate in HOSTILE if "hang" not in fate)

    def __init__(self, rng: random.Random, trials: int) -> None:
        super().__init__(rng, trials)
        self.fate = rng.choice((*HOSTILE, *self.quick))
        self.done = self.struck = True

    def __repr__(self) -> str:
        return f"Hostile({self.fate})"


class HostileAtOnce(Hostile):
    """One of those that do not hang."""

    def __init__(self, rng: random.Random, trials: int) -> None:
        super().__init__(rng, trials)
        self.fate = rng.choice(self.quick)


class KillProcess(Fault):
    """kill -9 of one process of the workers."""

    spoils = frozenset({"CRASHED", "WORKER_LOST"})

    def __init__(self, rng: random.Random, trials: int) -> None:
        super().__init__(rng, trials)
        self.worker, self.part = rng.choice(("builder", "evaluator")), rng.choice(("actor", "fork_server", "child"))

    def strike(self, run: Run) -> None:
        time.sleep(self.rng.uniform(0, 0.1))
        pid = run.worker(self.worker, self.part)
        self.struck = pid is not None and psutil.pid_exists(pid)
        if pid is not None and self.struck:
            os.kill(pid, signal.SIGKILL)

    def __repr__(self) -> str:
        return f"Kill({self.worker} {self.part})@{self.at}"


class DamageCache(Fault):
    """Artifacts on disk are cut, changed or removed, again and again."""

    def __init__(self, rng: random.Random, trials: int) -> None:
        super().__init__(rng, trials)
        self.left = rng.randrange(1, 4)

    def step(self, run: Run, committed: int) -> None:
        if self.left and committed >= self.at:
            self.left -= 1
            self.at += self.rng.randrange(1, 3)
            # Not rglob(), which does not bear that the workers remove a folder meanwhile.
            files = [Path(at) / name for at, _, names in os.walk(run.cache / "entries") for name in sorted(names)]
            if files:
                self.struck = True
                self._damage(self.rng.choice(files))

    def _damage(self, path: Path) -> None:
        try:
            data = path.read_bytes()
            how = self.rng.randrange(4)
            if how == 0:
                path.write_bytes(data[: len(data) // 2])
            elif how == 1 and data:
                at = self.rng.randrange(len(data))
                path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
            elif how == 2:
                path.unlink()
            else:
                path.write_bytes(b"")
        except OSError:
            return  # it has been replaced in between


class FullDisk(Fault):
    """No byte is free on the disk of the cache or of the database, until somebody frees some."""

    needs = frozenset({"small disk"})

    def strike(self, run: Run) -> None:
        run.fill_disk()

    def repair(self, run: Run) -> None:
        run.free_disk()


class Refuse(Fault):
    """The database server is away for a while: connections are cut and new ones refused."""

    needs = frozenset({"postgres"})

    def __init__(self, rng: random.Random, trials: int) -> None:
        super().__init__(rng, trials)
        self.until = float("inf")

    def step(self, run: Run, committed: int) -> None:
        super().step(run, committed)
        if time.monotonic() > self.until:
            run.proxy.refuses = False

    def strike(self, run: Run) -> None:
        run.proxy.refuses = True
        run.proxy.cut()
        self.until = time.monotonic() + self.rng.uniform(0.1, 1.5)

    def repair(self, run: Run) -> None:
        run.proxy.heal()


class Drop(Fault):
    """The connection is cut after some pieces of data: before, in or after a transaction; several times."""

    needs = frozenset({"postgres"})

    def __init__(self, rng: random.Random, trials: int) -> None:
        super().__init__(rng, trials)
        self.left = rng.randrange(1, 5)

    def step(self, run: Run, committed: int) -> None:
        if self.left and committed >= self.at and run.proxy.drop_in is None:
            self.left -= 1
            self.struck = True
            run.proxy.drop_in = self.rng.randrange(1, 25)

    def repair(self, run: Run) -> None:
        run.proxy.heal()


class Slow(Fault):
    """Each piece of data takes milliseconds more."""

    needs = frozenset({"postgres"})

    def strike(self, run: Run) -> None:
        run.proxy.delay_s = self.rng.uniform(0.001, 0.02)

    def repair(self, run: Run) -> None:
        run.proxy.heal()


class RestartServer(Fault):
    """PostgreSQL is stopped without waiting for anybody and started again, under load."""

    needs = frozenset({"postgres"})

    def strike(self, run: Run) -> None:
        run.restart_server(self.rng.choice(("immediate", "fast")))


def make(kinds: tuple[Callable[[random.Random, int], Fault], ...], rng: random.Random, trials: int) -> list[Fault]:
    """One to three faults, hostile candidates more often than not."""
    chosen = [rng.choice(kinds)(rng, trials) for _ in range(rng.choice((1, 1, 2, 3)))]
    return chosen
