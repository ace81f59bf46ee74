"""A real server process on a port of its own, with a database that the test fills through the store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from db.store import Store
from tuner.service import tokens

START_S = 90.0
"""How long a server may take to answer; a second on an idle machine."""


@dataclass
class Server:
    """A running ``tuner serve``."""

    url: str
    db: str
    home: Path
    process: subprocess.Popen[bytes]
    command: list[str]

    def client(self, token: str | None = None, **options: Any) -> httpx.Client:
        """An HTTP client, with a token if one is given."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # verify=False: there is no TLS here, and loading the certificates is what a client's start costs
        return httpx.Client(base_url=self.url, headers=headers, timeout=120, verify=False, **options)

    def token(self, scope: str, expires_in_s: float | None = None) -> str:
        """A new token."""
        with Store.open(self.db) as store:
            return tokens.create(store, scope, expires_in_s=expires_in_s)[0]

    def kill(self) -> None:
        """Ends the server as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        """Ends the server as an operator would."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def log(self) -> str:
        """What the server wrote."""
        return (self.home / "serve.log").read_text()


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``tuner``; keywords are environment variables."""

    def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tuner", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={**clean_environment(), **variables},
        )

    return call


def clean_environment() -> dict[str, str]:
    """This process's environment without what would change the command's settings."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_"))}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """Gives as many ports that nobody listens on."""

    def find(count: int) -> list[int]:
        ports: set[int] = set()
        while len(ports) < count:
            ports.add(free_port())
        return list(ports)

    return find


def start(home: Path, db: str, *flags: str, **more: str) -> Server:
    """Starts a server with more environment variables and waits until it answers."""
    port = free_port()
    command = [sys.executable, "-m", "tuner", "serve", "--port", str(port), "--db", db, *flags]
    home.mkdir(parents=True, exist_ok=True)
    variables = {"XDG_DATA_HOME": str(home / "data"), "XDG_CACHE_HOME": str(home / "cache")}
    with (home / "serve.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=clean_environment() | variables | more)
    server = Server(f"http://127.0.0.1:{port}", db, home, process, command)
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at:
        assert process.poll() is None, server.log()
        try:
            if httpx.get(f"{server.url}/readyz", timeout=5, verify=False).status_code == 200:
                return server
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"the server did not answer within {START_S:g} s: {server.log()}")


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers: ``serve(*flags, db=URL)``; they end with the module's tests."""
    pytest.importorskip("uvicorn", reason="needs the packages of tuner[serve]")
    started: list[Server] = []

    def make(*flags: str, db: str | None = None, **more: str) -> Server:
        home = tmp_path_factory.mktemp("server")
        started.append(start(home, db or f"sqlite:///{home}/results.db", *flags, **more))
        return started[-1]

    yield make
    for server in started:
        server.stop()


@pytest.fixture
def again() -> Iterator[Callable[[Server], Server]]:
    """Starts a server on the database and the folder of one that has ended."""
    started: list[Server] = []

    def make(before: Server) -> Server:
        started.append(start(before.home, before.db))
        return started[-1]

    yield make
    for server in started:
        server.stop()
