"""Loads a built variant into this process as a callable, and unloads it."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.build import native
from workers.errors import FailureInSandbox
from workers.fib.dataset import Document
from workers.records import Status, Variant

ARTIFACTS = "artifacts"
"""Folder beside a Solution's sources into which its ``build.py`` writes and from which its entry point reads."""

PRELOAD = "preload"
"""Name of a function without arguments that an entry point's module may have: it loads libraries early.
Evaluators call it while the GPU is busy with another variant's checks, so it must not use the GPU."""

_SOURCE_MTIME_S = 1_000_000_000
"""Modification time of every staged source. numba's cache beside the sources is keyed by it, so it must be the same
wherever an artifact is unpacked. Whole seconds survive every archive format."""


class LoadError(FailureInSandbox):
    """A variant cannot be loaded; the message says why."""

    def __init__(self, message: str, status: Status = Status.RUNTIME_ERROR) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Loaded:
    """A variant in this process. Call ``function``; :meth:`unload` forgets its modules."""

    function: Callable[..., Any]
    package: str | None = None
    path: str | None = None
    preload: Callable[[], Any] | None = None
    """The entry point's module's own function of that name, if it has one."""
    was_called: bool = False
    """Whether it was called before its turn, so that what a first call makes exists."""
    settings: Mapping[str, Any] | None = None
    """What it has made of the settings of its process, see :mod:`workers.sandbox.process_state`."""
    stuck: tuple[str, ...] = ()
    """Of those, what cannot be put back."""
    tampered: str | None = None
    """The part of the evaluator that it replaced when it was loaded."""
    before: Mapping[str, Any] = field(default_factory=lambda: dict(sys.modules), repr=False)
    """The modules that were there before it; its own are among the others."""
    compiles_late: bool = False
    """Whether it has kernels that are compiled when they are launched."""

    def unload(self) -> None:
        """Remove the modules, so that their memory is freed and the next variant cannot see them."""
        if self.package is not None:
            inside = self.package + "."
            later = [name for name, module in sys.modules.items() if self.before.get(name) is not module]
            for name in [m for m in later if m == self.package or m.startswith(inside) or self._is_ours(m)]:
                del sys.modules[name]
        if self.path is not None and self.path in sys.path:
            sys.path.remove(self.path)
        self.function, self.preload = _unloaded, None
        gc.collect()

    def _is_ours(self, name: str) -> bool:
        """Whether a module came from the variant's folder, under whatever name."""
        # Not getattr: some packages put lazy objects among the modules.
        file = getattr(sys.modules[name], "__dict__", {}).get("__file__")
        return isinstance(file, str) and self.path is not None and file.startswith(self.path + os.sep)


def package_name(digest: str) -> str:
    """Name of an artifact's package folder. It is unique, so variants never share a module."""
    return f"tuner_variant_{digest[:16]}"


def stage_sources(variant: Variant, package: Path) -> None:
    """Write the variant's files below ``package``.

    Raises:
        ValueError: A path leaves the folder.
    """
    for name, text in variant.sources.items():
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"source path {name!r} leaves the Solution's folder")
        target = package / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        os.utime(target, (_SOURCE_MTIME_S, _SOURCE_MTIME_S))


def load(variant: Variant, definition: Document, folder: Path, package: str) -> Loaded:
    """Make the entry point of a staged or cached variant callable.

    Args:
        variant: The variant.
        definition: Document of the definition that it solves.
        folder: Folder that holds the package folder.
        package: Name of the package folder.

    Raises:
        Exception: Whatever the variant's import or the compiler raises.
    """
    if variant.is_native:
        os.environ["FIB_CACHE_PATH"] = str(folder / "fib")
        return Loaded(native.build(variant, definition))
    file, _, symbol = variant.entry_point.partition("::")
    sys.path.insert(0, str(folder))
    loaded = Loaded(_unloaded, package, str(folder))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(".".join([package, *Path(file).with_suffix("").parts]))
        function = getattr(module, symbol, None)
        if not callable(function):
            raise TypeError(
                f"entry point {variant.entry_point!r}: {symbol!r} is {type(function).__name__}, not callable"
            )
    except BaseException:
        loaded.unload()
        raise
    loaded.function = function
    loaded.preload = getattr(module, PRELOAD, None)
    return loaded


def _unloaded(*_: Any) -> Any:
    raise RuntimeError("this variant was unloaded")
