"""A folder with a ``space.yaml`` and the sources of a Solution, as a search space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.inputs.generator import InputGenerator
from search_spaces.parameters import Constraint, SpaceError
from search_spaces.prediction.file_model import MODEL_FILE, model_beside
from search_spaces.space import SearchSpace, SpaceFamily
from search_spaces.space_file import SPACE_FILE, read_space_file


class DirectoryFamily(SpaceFamily):
    """The family of a folder.

    Args:
        path: The folder.

    Raises:
        SpaceError: ``space.yaml`` or the sources are not usable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = read_space_file(path / SPACE_FILE)
        self._model = model_beside(path)
        self.name = self._file.name
        self.targets = self._file.keys.targets

    def why_not(self, definition: Mapping[str, Any]) -> str | None:
        keys = self._file.keys
        name, op_type = definition.get("name"), definition.get("op_type")
        if keys.definition and name not in keys.definition:
            return f"definition {name!r} is not one of {', '.join(keys.definition)}"
        if keys.op_type and op_type not in keys.op_type:
            return f"op_type {op_type!r} is not one of {', '.join(keys.op_type)}"
        if keys.size_axis is not None:
            variable = [n for n, axis in definition.get("axes", {}).items() if axis.get("type") == "var"]
            if keys.size_axis not in variable:
                return f"size_axis {keys.size_axis!r} is not a variable axis; those are {', '.join(variable)}"
        return None

    def _constraints(self, definition: Mapping[str, Any], target: str) -> tuple[Constraint, ...]:
        """The rules for a definition and a target; what they read is known only now."""
        try:
            return tuple(c.on(definition, target, self._file.keys.size_axis) for c in self._file.constraints)
        except SpaceError as error:
            raise SpaceError(f"{self._path / SPACE_FILE}: {error}") from error

    def input_generator(self, definition: Mapping[str, Any]) -> InputGenerator | None:
        return self._file.inputs

    def space(self, definition: Mapping[str, Any], target: str) -> SearchSpace:
        file, keys = self._file, self._file.keys
        if target not in keys.targets:
            raise SpaceError(f"space {file.name!r} has no target {target!r}; it has {', '.join(keys.targets)}")
        why = self.why_not(definition)
        if why is not None:
            raise SpaceError(f"space {file.name!r} cannot solve {definition.get('name')!r}: {why}")
        return SearchSpace(
            name=file.name,
            target=target,
            parameters=file.parameters,
            constraints=self._constraints(definition, target),
            default=file.default,
            defaults=file.defaults,
            sources={n: text for n, text in file.sources.items() if self._model is None or n != MODEL_FILE},
            sizes={n: axis["value"] for n, axis in definition.get("axes", {}).items() if axis.get("type") == "const"},
            size_axis=keys.size_axis,
            entry_point=keys.entry_point,
            language=keys.language,
            binding=keys.binding,
            dependencies=keys.dependencies,
            destination_passing=keys.destination_passing,
            starts=file.starts,
            mode=keys.mode,
            model=self._model,
        )
