"""Starts sweeps as processes of their own, which outlive the server.

The server and a sweep's process share nothing but the database. The process writes its ticket into the sweep's row,
from which the server learns the sweep's ID, and reads there whether it should stop.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Protocol

from tuner.service.settings import ServiceSettings
from workers.sandbox import interpreter


class Launched(Protocol):
    """A sweep's process that has been started."""

    def ended(self) -> str | None:
        """How it ended, as text; None while it runs."""


class SweepLauncher(Protocol):
    """Starts ``tuner sweep`` somewhere."""

    def start(self, ticket: str, arguments: Sequence[str]) -> Launched:
        """Start a process.

        Args:
            ticket: Text by which the server recognises the sweep.
            arguments: Arguments of ``tuner sweep``; no secrets, since other users of the machine can see them.

        Raises:
            OSError: It could not be started.
        """


def launcher(settings: ServiceSettings) -> SweepLauncher:
    """Ray jobs if the settings name a Jobs API, else processes on this machine."""
    return RayJobs(settings) if settings.ray_jobs_url else LocalProcesses(settings)


class LocalProcess:
    """A child of the server in a session of its own, so that signals to the server do not reach it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ended(self) -> str | None:
        """How it ended, as text; None while it runs."""
        code = self._process.poll()
        return None if code is None else f"exit code {code}"


class LocalProcesses:
    """Starts sweeps on this machine; their output goes to ``log_dir``."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._running: list[LocalProcess] = []

    def start(self, ticket: str, arguments: Sequence[str]) -> LocalProcess:
        """Start a process; see :meth:`SweepLauncher.start`."""
        settings = self._settings
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        self._running = [p for p in self._running if p.ended() is None]  # polling reaps processes that have ended
        local = ["--out", str(settings.out), *(["--dataset", str(settings.dataset)] if settings.dataset else [])]
        with (settings.log_dir / f"sweep-{ticket}.log").open("wb") as log:
            process = subprocess.Popen(
                interpreter.command("tuner", "sweep", *arguments, *local, "--ticket", ticket),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(settings),
            )
        self._running.append(LocalProcess(process))
        return self._running[-1]


def _environment(settings: ServiceSettings) -> dict[str, str]:
    wanted = {
        "TUNER_DB_URL": settings.db,
        "TUNER_CACHE_DIR": None if settings.cache_dir is None else str(settings.cache_dir),
        "RAY_ADDRESS": settings.ray_address,
    }
    inherited = {k: v for k, v in os.environ.items() if k not in ("PROMETHEUS_MULTIPROC_DIR", "TUNER_TOKEN")}
    inherited["PYTHONPATH"] = interpreter.python_path(*os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return inherited | {k: v for k, v in wanted.items() if v is not None}


class RayJob:
    """A job of Ray's Jobs API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ended(self) -> str | None:
        """How it ended, as text; None while it runs."""
        status = str(_call("GET", self._url).get("status", "UNKNOWN"))
        return status if status in ("STOPPED", "SUCCEEDED", "FAILED") else None


class RayJobs:
    """Starts sweeps as jobs of a Ray cluster, over its Jobs REST API.

    A cluster that asks for a token gets the one in ``RAY_AUTH_TOKEN``, Ray's own variable.

    The cluster's image must hold this project and, for anything but SQLite on a shared disk, reach the database. The
    database URL travels in the job's environment variables, which the cluster's own users can see.

    Source: the REST API of Ray Jobs (ray-project/ray, doc/source/cluster/running-applications/job-submission/rest.rst).
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._jobs_url = f"{str(settings.ray_jobs_url).rstrip('/')}/api/jobs/"

    def start(self, ticket: str, arguments: Sequence[str]) -> RayJob:
        """Start a process; see :meth:`SweepLauncher.start`."""
        job_id = f"tuner-{ticket}"
        body = {
            "entrypoint": shlex.join(["tuner", "sweep", *arguments, "--ticket", ticket]),
            "submission_id": job_id,
            "runtime_env": {"env_vars": {"TUNER_DB_URL": self._settings.db}},
            "metadata": {"tuner_ticket": ticket},
        }
        _call("POST", self._jobs_url, body)
        return RayJob(self._jobs_url + job_id)


def _call(method: str, url: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
    token = os.environ.get("RAY_AUTH_TOKEN")
    request = urllib.request.Request(
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            answer: dict[str, object] = json.load(reply)
    except urllib.error.HTTPError as error:
        raise OSError(f"the Ray Jobs API answered {error.code}: {error.read(500).decode('utf-8', 'replace')}") from None
    return answer
