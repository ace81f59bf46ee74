"""Checks a request for a sweep, starts the sweep, and waits until it has an ID."""

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.records import SweepState
from db.store import Store
from search_spaces import SpaceError
from search_spaces.registry import family, names
from tuner.errors import NothingFoundError, UsageError
from tuner.results.status import state_now
from tuner.search import sampler_names
from tuner.service.metrics import STARTED
from tuner.service.middleware.problems import ProblemError
from tuner.service.models import Choices, StartSweep, TunableDefinition
from tuner.service.settings import ServiceSettings
from tuner.service.start_sweep.launchers import Launched, SweepLauncher
from tuner.setting_flags import arguments
from tuner.settings import SweepSettings, load
from tuner.sweeps.setup import open_dataset, resolve
from workers.errors import DatasetError
from workers.fib.dataset import Dataset

POLL_S = 0.1

logger = logging.getLogger("tuner.service")


@dataclass(frozen=True)
class Starter:
    """Starts and resumes sweeps. Blocks; call it from a thread."""

    settings: ServiceSettings
    store: Store
    launcher: SweepLauncher

    def start(self, wanted: StartSweep) -> int:
        """Start a sweep and return its ID, which its own process has registered.

        Raises:
            ProblemError: 422 if it cannot be swept, 429 if too many run, 502 if it did not start, 504 if too slowly.
        """
        given = wanted.given()
        target = self._check(given)
        self._room()
        ticket = secrets.token_hex(8)
        launched = self._launch(ticket, arguments(SweepSettings.model_fields, {**given, "target": target}))
        return self._wait(ticket, launched, lambda: self.store.sweeps.of_ticket(ticket))

    def resume(self, sweep_id: int) -> None:
        """Resume a sweep that was stopped or whose process died.

        Raises:
            ProblemError: 409 if it runs or is done; otherwise as for :meth:`start`.
        """
        sweep = self.store.sweeps.get(sweep_id)
        state = state_now(sweep)
        if state in (SweepState.RUNNING, SweepState.DONE):
            raise ProblemError(409, f"sweep {sweep_id} is {state}; only one that stopped early can be resumed")
        self._room()
        ticket = secrets.token_hex(8)
        launched = self._launch(ticket, ["--resume", str(sweep_id)])
        before = sweep.owner, sweep.heartbeat_at

        def taken() -> int | None:
            now = self.store.sweeps.get(sweep_id)
            return sweep_id if now.owner is not None and (now.owner, now.heartbeat_at) != before else None

        self._wait(ticket, launched, taken)

    def _launch(self, ticket: str, arguments: list[str]) -> Launched:
        try:
            return self.launcher.start(ticket, arguments)
        except OSError as error:
            logger.error("sweep %s was not started: %s", ticket, error)
            STARTED.labels("refused").inc()
            raise ProblemError(502, "the sweep could not be started; the server's log has the reason") from None

    def _wait(self, ticket: str, launched: Launched, registered: Callable[[], int | None]) -> int:
        give_up_at = time.monotonic() + self.settings.start_timeout_s
        while True:
            ended = launched.ended()
            found = registered()  # asked after `ended`: a short sweep may have registered itself and ended
            if found is not None:
                STARTED.labels("started").inc()
                return found
            if ended is not None:
                logger.error("sweep %s ended before it registered: %s", ticket, ended)
                STARTED.labels("failed").inc()
                raise ProblemError(502, f"the sweep ended before it began ({ended}); the server's log has the reason")
            if time.monotonic() > give_up_at:
                raise ProblemError(
                    504,
                    f"the sweep has not registered within {self.settings.start_timeout_s:g} s; it may still appear in "
                    "the list",
                )
            time.sleep(POLL_S)

    def _room(self) -> None:
        running = [s for s in self.store.sweeps.newest(limit=200) if state_now(s) == SweepState.RUNNING]
        if len(running) >= self.settings.max_running_sweeps:
            raise ProblemError(
                429,
                f"{len(running)} sweeps are running, and this server allows {self.settings.max_running_sweeps}",
                headers={"Retry-After": "60"},
            )

    def _check(self, given: Mapping[str, Any]) -> str:
        """The target of a valid request. Everything that can be refused without a process is refused here."""
        sampler, space, definition = given.get("sampler"), given.get("space"), given["definition"]
        if sampler is not None and sampler not in sampler_names():
            raise _invalid("sampler", sampler, sampler_names())
        if space is not None and space not in names():
            raise _invalid("search space", space, names())
        dataset = served(self.settings.dataset)
        if definition not in dataset.definitions:
            raise _invalid("definition", definition, sorted(dataset.definitions))
        try:
            setup = resolve(load(given), dataset)
            setup.checked_space()
        except SpaceError as error:
            raise ProblemError(422, str(error), kind="no-space", title="No search space fits") from None
        except (UsageError, NothingFoundError) as error:
            raise ProblemError(422, str(error), kind="unusable-settings", title="Unusable settings") from None
        except DatasetError as error:
            logger.error("definition %s cannot be swept: %s", definition, error)
            raise ProblemError(502, "the server's dataset cannot be used; the server's log has the reason") from None
        return setup.target


def _invalid(kind: str, name: str, known: Sequence[str]) -> ProblemError:
    listed = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
    return ProblemError(422, f"unknown {kind} {name!r}; known are {listed}", kind="unknown-name", title="Unknown name")


@functools.lru_cache(maxsize=4)
def served(folder: Path | None) -> Dataset:
    """The server's dataset, read once.

    Raises:
        DatasetError: It cannot be read.
    """
    return open_dataset(folder)


@functools.lru_cache(maxsize=4)
def choices(folder: Path | None) -> Choices:
    """Everything a sweep can be started for.

    Raises:
        DatasetError: The dataset cannot be read.
    """
    dataset = served(folder)
    families = [family(name) for name in names()]
    found = []
    for name, definition in sorted(dataset.definitions.items()):
        spaces = [f.name for f in families if f.why_not(definition) is None]
        try:
            workloads = len(dataset.workloads(name))
        except DatasetError as error:
            logger.warning("definition %s is left out: %s", name, error)
            continue
        if spaces and workloads:
            found.append(TunableDefinition(name, definition["op_type"], workloads, spaces))
    targets = sorted({t for f in families for t in f.targets})
    return Choices(found, targets, list(sampler_names()))
