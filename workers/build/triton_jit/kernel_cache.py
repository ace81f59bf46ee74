"""Triton's cache of an evaluator's process: private, and filled with what builders have compiled."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from workers.build.loader import ARTIFACTS
from workers.build.triton_jit.dry_run import FOLDER

VARIABLE = "TRITON_CACHE_DIR"


def offer(package: Path) -> bool:
    """Put what a builder has compiled where Triton looks for it in this process.

    Triton compares its own version, the compiler's and the kernel's source; what does not fit is compiled again.

    Args:
        package: A variant's package folder.

    Returns:
        Whether the variant has kernels that are compiled when they are launched.
    """
    compiled = package / ARTIFACTS / FOLDER
    if not compiled.is_dir():
        return False
    if os.environ.get(VARIABLE):
        for entry in compiled.iterdir():
            place = Path(os.environ[VARIABLE]) / entry.name
            if not place.exists():
                _copy(entry, place)
    return True


def _copy(entry: Path, place: Path) -> None:
    """Copy a folder of Triton's cache. Its list of files holds their absolute paths."""
    shutil.copytree(entry, place)
    for group in place.glob("__grp__*"):
        names = json.loads(group.read_text(encoding="utf-8"))["child_paths"]
        paths = {name: str(place / name) for name in names if (place / name).exists()}
        group.write_text(json.dumps({"child_paths": paths}), encoding="utf-8")
