"""Sends a problem's blobs to machines that do not have the dataset, through Ray's object store."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from workers.fib.dataset import Problem, blob_paths

Files = Mapping[str, bytes]
"""Path in the dataset -> content."""


def pack(problem: Problem) -> Files:
    """The blobs that the problem's workloads name by a path inside the dataset."""
    return {path: (Path(problem.root) / path).read_bytes() for path in _blobs(problem)}


def at_hand(problem: Problem, files: Files, cache_dir: str | Path) -> Problem:
    """The problem for this machine: unchanged if the dataset is here, else with its files in the cache folder."""
    if all((Path(problem.root) / path).is_file() for path in _blobs(problem)):
        return problem
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(path.encode() + b"\0" + hashlib.sha256(content).digest())
    root = Path(cache_dir).expanduser() / "datasets" / digest.hexdigest()[:32]
    for path, content in files.items():
        _write(root / path, content)
    return replace(problem, root=str(root))


def _blobs(problem: Problem) -> list[str]:
    return [path for path in blob_paths(problem.workloads) if not Path(path).is_absolute()]


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically, since several evaluators of a machine may write it at once."""
    if path.is_file() and path.stat().st_size == len(content):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        partial.write(content)
    os.replace(partial.name, path)
