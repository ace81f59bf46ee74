"""From a seed to a run: where it takes place, what goes wrong, and whether everything holds afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from sqlalchemy import text

from db.store import Store
from search_spaces.directory import DirectoryFamily
from tests.chaos import faults, ground, sweeper
from tests.chaos.faults import Fault
from tests.chaos.invariants import Expected, violations
from tests.chaos.proxy import Proxy

if TYPE_CHECKING:
    from tests.chaos.arena import Arena

PATIENCE_S = 400.0
"""For one process of a sweep; none takes that long unless something hangs, which is a violation."""

RESUMES = 8
ANYWHERE = (
    faults.KillSweep, faults.KillSweep, faults.StopSweep, faults.FreezeSweep, faults.SecondSweep, faults.ClockJump,
    faults.DamageCache, faults.Hostile, faults.Hostile,
)  # fmt: skip
ON_POSTGRES = (faults.Refuse, faults.Drop, faults.Drop, faults.Slow, faults.RestartServer)
ON_SMALL_DISK = (faults.FullDisk,)
WITH_WORKERS = (faults.KillProcess, faults.KillProcess, faults.DamageCache, faults.HostileAtOnce)
_POLITE = (signal.SIGINT, signal.SIGTERM)
"""Signals that a process can listen to."""


@dataclass
class Outcome:
    """What a run came to."""

    seed: int
    place: str
    faults: str
    violations: list[str] = field(default_factory=list)
    processes: int = 0
    """Of the sweep: one more than it was resumed."""
    trials: int = 0
    wall_s: float = 0.0
    ends: list[str] = field(default_factory=list)
    """What each process said last, but for the one that got done."""
    struck: list[str] = field(default_factory=list)
    """Kinds of the faults that found something to strike."""


def _listens(pid: int) -> bool:
    """Whether a process answers the signals that ask it to stop; not while it starts, nor when its command has ended.

    SIGTERM tells: Python has a handler of its own for SIGINT, from the start.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


class Run:
    """One sweep under attack.

    Args:
        arena: Workers, databases and disks.
        seed: Decides everything.
        folder: Empty, for this run.
    """

    def __init__(self, arena: Arena, seed: int, folder: Path) -> None:
        self._arena = arena
        self.seed = seed
        self._rng = random.Random(seed)
        self.folder = folder
        self.place = arena.place(seed)
        self.cache = arena.cache(self.place)
        self.clock = folder / "clock"
        self.disk_is_full = False
        self.late = False
        self.found: list[str] = []
        kinds = ANYWHERE
        if self.place == "postgres":
            kinds = (*ON_POSTGRES, *ANYWHERE)
        elif self.place == "small disk":
            kinds = (*ON_SMALL_DISK * 6, *ANYWHERE)
        elif self.place == "workers":
            kinds = (*WITH_WORKERS * 2, *(k for k in ANYWHERE if k is not faults.Hostile))
        works, ones = self._rng.choice((1, 2)), 4
        self.regimes = self._rng.choice(((), (16,)))
        trials = works * ones * (1 + len(self.regimes))
        self.faults: list[Fault] = faults.make(kinds, self._rng, trials)
        self.fates = self._plant()
        self.ground = ground.lay(folder, tens=1, works=works, ones=ones, fates=self.fates)
        if self.place == "postgres":
            self.url, self._direct = arena.postgres.database()
        elif self.place == "small disk" and seed % 8 == 7:  # else the disk holds the cache alone
            self.url = self._direct = f"sqlite:///{arena.disk}/{seed}/results.db"
        else:
            self.url = self._direct = f"sqlite:///{folder}/results.db"
        self._process: Any = None
        self._others: list[Any] = []
        self._count_connection: Any = None

    # -- for faults --------------------------------------------------------------------------------------------------

    @property
    def proxy(self) -> Proxy:
        """In front of the database."""
        return self._arena.postgres.proxy

    def signal(self, number: int) -> None:
        """To the sweep process, if it runs; what it can listen to is sent once it does, not while it starts."""
        while self._process.is_alive() and number in _POLITE and not _listens(self._process.pid):
            self._process.join(0.001)
        if self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(self._process.pid, number)

    def is_alive(self) -> bool:
        """Whether the sweep process runs and has not begun to end."""
        return bool(self._process.is_alive()) and self._state() == "RUNNING"

    def second(self) -> tuple[int, str]:
        """Resume the sweep in another process; its exit code and what it said."""
        out = self.folder / "second.txt"
        process = self._start(("sweep", "--resume", "1", "--no-export"), out, self._arena.second_host)
        self._others.append(process)
        process.join(PATIENCE_S)
        # A sweep that ended in between is free to be gone on with; what this one, which has no workers, made of it is
        # put right by one more resume.
        self.late = self.late or not self.is_alive()
        return process.exitcode, out.read_text()

    def worker(self, kind: str, part: str) -> int | None:
        """Process id of a worker's part."""
        return self._arena.worker_pid(kind, part)

    def fill_disk(self) -> None:
        """Until not one byte fits."""
        self.disk_is_full = True
        self._arena.fill_disk()

    def free_disk(self) -> None:
        """As it was."""
        if self.disk_is_full:
            self.disk_is_full = False
            self._arena.free_disk()

    def restart_server(self, mode: str) -> None:
        """PostgreSQL's."""
        self._count_connection = None
        self._arena.postgres.restart(mode)

    def violation(self, line: str) -> None:
        """Something that must not happen, seen by a fault."""
        self.found.append(line)

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Attack, repair, resume until the sweep is done; then look at everything."""
        began = time.monotonic()
        before = self._arena.held(self.place)
        (self.folder / "settings.yaml").write_text(yaml.safe_dump(self._settings()))
        outcome = Outcome(self.seed, self.place, repr(self.faults), self.found)
        arguments: tuple[str, ...] = ("sweep", "--config", str(self.folder / "settings.yaml"), "--no-export")
        for _ in range(RESUMES):
            outcome.processes += 1
            code = self._live(arguments)
            for fault in self.faults:
                fault.repair(self)
            if code is None:
                self.found.append(f"the sweep process hangs; it said {self._said()[-500:]}")
                break
            if code in (0, 3) and not self.late:
                break
            if code not in (0, 3):
                self._judge_end(code)
                outcome.ends.append(f"{code} after {self._committed()}: {self._said().strip()[-200:]}")
            self.late = False
            if self.found:
                break
            if self._committed() is not None:
                self._expire_claim()
                arguments = ("sweep", "--resume", "1", "--no-export")
        else:
            self.found.append(f"not done after {RESUMES} resumes: {self._said()[-500:]}")
        if not self.found:
            self._examine(outcome)
        self.found += self._arena.left_over(self.place, before, [self._process, *self._others])
        outcome.struck = [repr(f).partition("@")[0].partition("(")[0] for f in self.faults if f.struck]
        outcome.wall_s = time.monotonic() - began
        return outcome

    def _live(self, arguments: tuple[str, ...]) -> int | None:
        """One process of the sweep under attack; its exit code, None if it had to be killed."""
        self._process = self._start(arguments, self.folder / "out.txt", self._arena.host(self.place))
        deadline = time.monotonic() + PATIENCE_S
        while self._process.is_alive() and time.monotonic() < deadline:
            committed = self._committed()
            if committed is not None:
                for fault in self.faults:
                    fault.step(self, committed)
            self._process.join(0.01)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            return None
        return int(self._process.exitcode)

    def _start(self, arguments: tuple[str, ...], out: Path, host: str) -> Any:
        order = sweeper.Order(arguments, self.url, host, out, self.clock)
        process = self._arena.context.Process(target=sweeper.main, args=(order,))
        process.start()
        return process

    def _judge_end(self, code: int) -> None:
        """A sweep may end early with one line, never with a traceback."""
        said = self._said()
        if code == -signal.SIGKILL and any(isinstance(f, faults.KillSweep) for f in self.faults):
            return
        if code not in (4, 130):
            self.found.append(f"the sweep process ended with {code}: {said[-800:]}")
        elif "Traceback" in said:
            self.found.append(f"a traceback for the user: {said[-1500:]}")

    def _said(self) -> str:
        path = self.folder / "out.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def _examine(self, outcome: Outcome) -> None:
        space = DirectoryFamily(self.ground.space).space(self._arena.definition, "cpu")
        with Store.open(self._direct) as store:
            regimes = ("0-16", "17+") if self.regimes else ("0+",)
            spoilt = frozenset[str]().union(*(f.spoils for f in self.faults))
            expected = Expected(tuple(space.enumerate()), space.default, regimes, self.fates, spoilt)
            self.found += violations(store, 1, expected)
            outcome.trials = len(store.trials.of(1))

    def _settings(self) -> dict[str, Any]:
        return {
            "dataset": str(self.ground.dataset),
            "definition": ground.DEFINITION,
            "space": str(self.ground.space),
            "cache_dir": str(self.cache),
            "regimes": list(self.regimes),
            "max_trials": 1000,
            "sampler": self._rng.choice(("auto", "random", "random", "grid")),
            "seed": self._rng.randrange(1000),
            "race_factor": 4.0,
            "final_rounds": 12,
            "final_s": 0.5,
            "max_samples": 6,
            "sample_budget_s": 0.01,
        }

    def _plant(self) -> dict[int, str]:
        """Salts of the hostile candidates; at most one that hangs, for time's sake."""
        hostile = [f.fate for f in self.faults if isinstance(f, faults.Hostile)]
        salts = self._rng.sample(range(1, 4), min(3, len(hostile)))
        return dict(zip(salts, hostile, strict=False))

    # -- the database, past the proxy --------------------------------------------------------------------------------

    def _committed(self) -> int | None:
        """Trials of the sweep, None while there is no sweep."""
        try:
            return self._query("SELECT (SELECT count(*) FROM trial), (SELECT count(*) FROM sweep)")
        except Exception:
            self._count_connection = None
            return None

    def _query(self, query: str) -> int | None:
        if self._direct.startswith("sqlite"):
            path = self._direct.removeprefix("sqlite:///")
            if not os.path.exists(path):
                return None
            if self._count_connection is None:
                self._count_connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)
            trials, sweeps = self._count_connection.execute(query).fetchone()
        else:
            import psycopg

            if self._count_connection is None:
                self._count_connection = psycopg.connect(self._direct.replace("+psycopg", ""), autocommit=True)
            trials, sweeps = self._count_connection.execute(query).fetchone()
        return int(trials) if sweeps else None

    def _state(self) -> str:
        with Store.open(self._direct) as store:
            return str(store.sweeps.get(1).state)

    def _expire_claim(self) -> None:
        """What thirty seconds without a heartbeat would do."""
        with Store.open(self._direct) as store, store.database.engine.begin() as connection:
            connection.execute(text("UPDATE sweep SET heartbeat_at = heartbeat_at - 3600 WHERE owner IS NOT NULL"))

    def close(self) -> None:
        """Leave nothing."""
        if self._count_connection is not None:
            self._count_connection.close()
        for process in (self._process, *self._others):
            if process is not None and process.is_alive():
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.place == "small disk":
            self.free_disk()
            shutil.rmtree(self._arena.disk / str(self.seed), ignore_errors=True)
