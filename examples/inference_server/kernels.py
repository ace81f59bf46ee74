"""Picks kernels at the start of an inference server: the best Solution that the service knows for this machine's GPU.

Copy this file into the inference server. It needs ``tuner`` for the client; the Solution itself needs what its kernels
need (``torch``, for CuTe DSL kernels also ``nvidia-cutlass-dsl`` and ``apache-tvm-ffi``).
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner import Client
from tuner.errors import TunerError

logger = logging.getLogger(__name__)


def best_kernel(
    client: Client, definition: str, axes: Mapping[str, int], default: Callable[..., Any], folder: Path
) -> Callable[..., Any]:
    """The entry point of the best Solution for this machine, or the server's own kernel.

    A server that starts while the service is away gets what it got last time. A start never fails because of tuning:
    whatever goes wrong is logged, and the default is used.

    Args:
        client: Of the service; a token with scope ``read`` is enough.
        definition: Name of a flashinfer-bench definition.
        axes: A size that matters; the Solution holds a config for every regime and picks by size at each call.
        default: The kernel to use if there is no record for this GPU.
        folder: Where Solutions are kept from start to start.
    """
    try:
        best = client.best_config(definition, axes, hardware="auto")
        if best is None or best.export_id is None:
            logger.warning("no Solution of %s for this machine; the default kernel is used", definition)
            return default
        place = folder / f"solution_{best.export_id}"
        if not place.is_dir():
            write_sources(client.solution(best.export_id), place)
        kernel = entry_point(place)
    except (TunerError, OSError, ImportError, SyntaxError, AttributeError) as error:
        logger.warning("kernel of %s cannot be had, the default is used: %s", definition, error)
        return default
    logger.info("%s: Solution %s, %.1f us, found by %s", definition, best.solution, best.median_us, best.found)
    return kernel


def write_sources(solution: Mapping[str, Any], place: Path) -> None:
    """Writes a Solution's files into a new folder, complete or not at all.

    Raises:
        ImportError: A path leaves the folder.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=place.parent))
    try:
        for source in solution["sources"]:
            path = (part / source["path"]).resolve()
            if not path.is_relative_to(part.resolve()):
                raise ImportError(f"source path {source['path']!r} leaves the Solution's folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source["content"])
        (part / "ENTRY").write_text(solution["spec"]["entry_point"])
        if not place.exists():
            os.replace(part, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def entry_point(place: Path) -> Callable[..., Any]:
    """Imports a Solution's folder as a package of its own and gives its entry point."""
    file, _, function = (place / "ENTRY").read_text().partition("::")
    package = place.name
    if package not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            package, place / "__init__.py", submodule_search_locations=[str(place)]
        )
        assert spec is not None
        sys.modules[package] = importlib.util.module_from_spec(spec)
    module = importlib.import_module(f"{package}.{file.removesuffix('.py').replace('/', '.')}")
    found: Callable[..., Any] = getattr(module, function)
    return found
