"""``tuner doctor``: whether everything that a sweep needs is there, and if not, what to do."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tuner.commands import place
from tuner.commands.place import Check, guarded
from tuner.settings import load
from workers.build.artifact_cache import default_cache_dir
from workers.errors import NoPlaceError

FREE_BYTES_WANTED = 2 << 30


def examine(flags: Mapping[str, Any]) -> list[Check]:
    """All checks, in the order in which a sweep would stumble. Writes nothing.

    Args:
        flags: What the command line gave of the settings ``db``, ``dataset`` and ``ray_address``.
    """
    # A user without a home has no default database; everything else is looked at all the same.
    settings = load({"db": "sqlite://", **{k: v for k, v in flags.items() if k != "db"}})
    return [
        _python(),
        *(_package(name) for name in ("torch", "flashinfer-bench", "numba", "ray", "optuna", "sqlalchemy")),
        *(_package(name, needed=False) for name in ("nvidia-cutlass-dsl", "apache-tvm-ffi", "nvidia-ml-py", "psycopg")),
        _gpu(),
        guarded("dataset", lambda: _dataset(settings.dataset)),
        guarded("database", lambda: _database(load({"db": flags.get("db")}).db)),
        guarded("artifact cache", lambda: _cache(settings.cache_dir or default_cache_dir())),
        *(_tool(name, *looked_for) for name, looked_for in TOOLS.items()),
        *place.examine(settings.ray_address is None),
        _ray(settings.ray_address),
    ]


TOOLS = {
    "c++ compiler": (("CXX",), ("c++", "g++", "clang++"), "builds kernels with language: cpp or cuda"),
    "nvcc": (("CUDACXX",), ("nvcc",), "builds kernels with language: cuda; set CUDA_HOME, or add its bin to PATH"),
    "ninja": ((), ("ninja",), "builds kernels with language: cpp or cuda; pip install ninja"),
}
"""What compiles -> variables that may name it, names that it has in PATH, and what for."""


def _tool(name: str, variables: tuple[str, ...], commands: tuple[str, ...], purpose: str) -> Check:
    named = [os.environ[v] for v in variables if os.environ.get(v)]
    homes = [f"{home}/bin/{c}" for c in commands if (home := os.environ.get("CUDA_HOME"))] if name == "nvcc" else []
    found = next((path for c in (*named, *commands, *homes) if (path := shutil.which(c))), None)
    message = found or f"none of {', '.join([*named, *commands])} is in PATH; it {purpose}"
    return Check(name, found is not None, message, needed=False)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info[:2] in ((3, 11), (3, 12)), f"{version}; 3.11 and 3.12 are tested")


def _package(name: str, needed: bool = True) -> Check:
    try:
        return Check(name, True, metadata.version(name), needed)
    except metadata.PackageNotFoundError:
        extra = "" if needed else " (only for GPU targets or PostgreSQL: pip install 'tuner[gpu,postgres]')"
        return Check(name, False, f"not installed{extra}", needed)


def _gpu() -> Check:
    from workers.devices.environment import gpu_target

    target = gpu_target() if importlib.util.find_spec("pynvml") else None
    message = f"target {target}" if target else "no H100, H200 or B200 here; sweeps use the cpu target"
    return Check("gpu", target is not None, message, needed=False)


def _dataset(folder: Path | None) -> str:
    from tuner.sweeps.setup import open_dataset

    dataset = open_dataset(folder)
    return f"{len(dataset.definitions)} definitions in {'the packaged dataset' if folder is None else folder}"


def _database(url: str) -> str:
    from db.engine import parse_url
    from db.errors import NoDatabase
    from db.store import Store

    try:
        with Store.open(url, create=False) as store:
            return f"schema {store.schema_version()}"
    except NoDatabase as missing:
        named = parse_url(url)
        if named.get_backend_name() == "sqlite" and named.database:
            _writable(Path(named.database).absolute().parent, "TUNER_DB_URL")
        return str(missing)


def _cache(folder: Path) -> str:
    free = shutil.disk_usage(_writable(folder, "TUNER_CACHE_DIR")).free
    message = f"{folder}: {free >> 30} GiB free"
    if free < FREE_BYTES_WANTED:
        raise NoPlaceError(f"{message}, {FREE_BYTES_WANTED >> 30} GiB are wanted; free some, or set TUNER_CACHE_DIR")
    return message


def _writable(folder: Path, variable: str) -> Path:
    """The folder, or the one in which it would be made."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        raise NoPlaceError(f"{folder}: not writable; set {variable}")
    return existing


def _ray(address: str | None) -> Check:
    if address is None:
        return Check("ray cluster", True, "a local one is started for each sweep", needed=False)
    import ray

    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        nodes = [n for n in ray.nodes() if n["Alive"]]
        ray.shutdown()
    except Exception as error:  # Ray raises a different class for each way of being unreachable
        return Check("ray cluster", False, f"{address} cannot be reached: {' '.join(str(error).split())[:200]}")
    return Check("ray cluster", True, f"{address}: {len(nodes)} nodes")
