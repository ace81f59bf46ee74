"""The model of a folder with a ``space.yaml``: its ``model.py``."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.parameters import SpaceError
from search_spaces.prediction.model import (
    Hardware,
    KernelPrediction,
    Model,
    Prediction,
    WorkloadFeatures,
)

MODEL_FILE = "model.py"
"""Beside a ``space.yaml``: ``predict(config, features, hardware)``."""


class FileModel(Model):
    """The model in a folder's ``model.py``.

    ``predict`` may return a :class:`Prediction`, or a mapping of kernel names to microseconds, or microseconds alone.

    Args:
        path: The file. It is run in this process, when it is first asked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._functions: Mapping[str, Any] | None = None

    def predict(self, config: Mapping[str, Any], features: WorkloadFeatures, hardware: Hardware) -> Prediction:
        said = self._module()["predict"](dict(config), features, hardware)
        if isinstance(said, Prediction):
            return said
        parts = said if isinstance(said, Mapping) else {"whole": said}
        return Prediction(tuple(KernelPrediction(str(name), float(us), {}) for name, us in parts.items()))

    def _module(self) -> Mapping[str, Any]:
        if self._functions is None:
            spec = importlib.util.spec_from_file_location(f"space_model_{abs(hash(self._path))}", self._path)
            if spec is None or spec.loader is None:
                raise SpaceError(f"{self._path} cannot be imported")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self._functions = vars(module)
        return self._functions


def model_beside(folder: Path) -> FileModel | None:
    """The model of a folder; None without a ``model.py`` whose ``predict`` takes what a model's does.

    The file is parsed, not run: a kernel may have a file of that name too.
    """
    path = folder / MODEL_FILE
    wanted = list(inspect.signature(Model.predict).parameters)[1:]
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "predict":
            return FileModel(path) if [a.arg for a in node.args.args] == wanted else None
    return None
