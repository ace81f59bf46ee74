"""Input profiles: what the inputs of a workload look like, where it is not what the dataset holds.

A generator is the source text of a Python module. It travels to the workers as text, so that a folder's own generator
works on any machine, and its digest belongs to what decides whether a measurement may be reused. It defines:

* ``PROFILES``: name -> what the inputs are like, in a few words. ``"zipf:EXPONENT"`` is a name that takes a number.
* ``FILLS``: names of the inputs that it fills; all others are made as the dataset says.
* ``fill(name, number, definition, workload, seed)``: input -> NumPy array, in the shape that the definition gives it.
  ``workload`` has ``axes`` and ``inputs`` as the dataset lists them, ``number`` is None for a name without one. What
  cannot be made of this definition is a ``ValueError``.
* ``describe(definition, workload, inputs)``, optional: figures by name, for ``tuner profile``. ``inputs`` are the
  arrays of ``FILLS``; a value may be a list of numbers, which is drawn.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from search_spaces.parameters import SpaceError

RECORDED = "recorded"
"""The profile of inputs as the dataset has them."""


@dataclass(frozen=True)
class InputGenerator:
    """Makes inputs by named profiles.

    Args:
        where: The file, for messages.
        source: The module's text.

    Raises:
        SpaceError: ``PROFILES``, ``FILLS`` or ``fill`` is missing, or not of the right form.
    """

    where: str
    source: str = field(repr=False)

    def __post_init__(self) -> None:
        profiles, fills = self._constants["PROFILES"], self._constants["FILLS"]
        if not isinstance(profiles, dict) or not all(isinstance(n, str) and n for n in profiles):
            raise SpaceError(f"{self.where}: PROFILES must be a dict with names of profiles, not {profiles!r}")
        if not isinstance(fills, tuple | list) or not fills or not all(isinstance(n, str) for n in fills):
            raise SpaceError(f"{self.where}: FILLS must list the inputs that are filled, not {fills!r}")
        if "fill" not in self._functions:
            raise SpaceError(f"{self.where}: there is no function fill(name, number, definition, workload, seed)")

    @property
    def profiles(self) -> Mapping[str, str]:
        """Profiles as users write them (``zipf:EXPONENT``), with their descriptions."""
        return {str(name): str(text) for name, text in self._constants["PROFILES"].items()}

    @property
    def fills(self) -> tuple[str, ...]:
        """Names of the inputs that it fills."""
        return tuple(self._constants["FILLS"])

    @property
    def digest(self) -> str:
        """Digest of the source, 16 hex digits."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    def split(self, profile: str) -> tuple[str, float | None]:
        """A profile such as ``zipf:0.8`` as its name and number.

        Raises:
            SpaceError: There is no such profile, or the number is missing, not one, or not wanted.
        """
        takes = {form.partition(":")[0]: form.partition(":")[2] for form in self.profiles}
        name, _, text = profile.partition(":")
        if name not in takes:
            raise SpaceError(f"unknown profile {profile!r}; allowed are {', '.join((RECORDED, *self.profiles))}")
        if not takes[name] and not text:
            return name, None
        try:
            number = float(text) if takes[name] else None
        except ValueError:
            number = None
        if number is None or not abs(number) < float("inf"):
            form = f"{name}:{takes[name]} with a number" if takes[name] else f"{name} without a number"
            raise SpaceError(f"profile {profile!r} must be {form}")
        return name, number

    def fill(self, profile: str, definition: Mapping[str, Any], workload: Mapping[str, Any], seed: int) -> Any:
        """Input -> array of a profile.

        Raises:
            SpaceError: The generator refuses, or fails.
        """
        return self._call("fill", profile, *self.split(profile), definition, workload, seed)

    def describe(
        self, profile: str, definition: Mapping[str, Any], workload: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """What the inputs do, as figures by name; empty if the generator does not say.

        Raises:
            SpaceError: It fails.
        """
        if "describe" not in self._functions:
            return {}
        return dict(self._call("describe", profile, definition, workload, inputs))

    def _call(self, function: str, profile: str, *arguments: Any) -> Any:
        try:
            return _module(self.source, self.where)[function](*arguments)
        except Exception as error:
            said = " ".join(str(error).split())
            why = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
            raise SpaceError(f"{self.where}: {function} for profile {profile!r}: {why}") from error

    @property
    def _constants(self) -> Mapping[str, Any]:
        return _parsed(self.source, self.where)[0]

    @property
    def _functions(self) -> frozenset[str]:
        return _parsed(self.source, self.where)[1]


@lru_cache(maxsize=16)
def _parsed(source: str, where: str) -> tuple[dict[str, Any], frozenset[str]]:
    """Constants and names of functions, read without running anything: this happens in the sweep's own process."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise SpaceError(f"{where} is not Python: {error}") from None
    found: dict[str, Any] = {}
    for node in tree.body:
        names = [t.id for t in getattr(node, "targets", ()) if isinstance(t, ast.Name)]
        if isinstance(node, ast.Assign) and set(names) & {"PROFILES", "FILLS"}:
            try:
                found |= dict.fromkeys(names, ast.literal_eval(node.value))
            except ValueError:
                raise SpaceError(
                    f"{where}: {names[0]} must be written out, since it is read without running it"
                ) from None
    for name in ("PROFILES", "FILLS"):
        if name not in found:
            raise SpaceError(f"{where}: it defines no {name}")
    return found, frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@lru_cache(maxsize=16)
def _module(source: str, where: str) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "input_generator"}
    exec(compile(source, where, "exec"), space)
    return space
