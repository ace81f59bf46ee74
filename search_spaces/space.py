"""The search space: parameters, constraints with reasons, a default config, and the sources a config turns into.

A space is made by a :class:`SpaceFamily` for one definition and one target, so sizes and limits are
plain values when a config is checked.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import pprint
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from search_spaces.constraint_search import Walk
from search_spaces.parameters import Config, Constraint, Parameter, SpaceError, broken, checked_config
from search_spaces.prediction.model import Model

if TYPE_CHECKING:
    from search_spaces.emulated_case import EmulatedCase
    from search_spaces.inputs.generator import InputGenerator

CONFIG_FILE = "config.py"
"""The only file in which variants of a family differ."""

HEADER_FILE = "config.h"
HEADER_LANGUAGES = ("cpp", "cuda")
"""Languages whose Solutions get a header beside ``config.py``."""

MOST_SIZES = 1 << 19
"""Sizes at which constraints are asked about one config, which takes 2 s."""

MOST_RANGES = 256
"""Ranges of sizes that are kept for one config."""


@dataclass(frozen=True)
class Start:
    """A config that the kernel's author expects to be good where the size is ``smallest`` to ``largest`` (None: any).

    Sweeps try it right after the default.
    """

    config: Config
    smallest: int = 0
    largest: int | None = None

    def suits(self, sizes: Iterable[int | None]) -> bool:
        """Whether any of the sizes is in its range; an unknown size counts as inside."""
        return any(
            size is None or (self.smallest <= size and (self.largest is None or size <= self.largest)) for size in sizes
        )


@dataclass(frozen=True)
class SearchSpace:
    """A space for one definition on one target.

    Args:
        name: The family's name, as in ``--space``.
        target: Name of the target, such as ``cpu``.
        parameters: Parameters, in the order in which configs are shown.
        constraints: Rules that valid configs obey.
        default: A valid config; measured in every sweep.
        sources: Path -> text of the Solution's files without ``config.py``.
        sizes: The definition's constants that the kernels need; they go into ``config.py``.
        size_axis: The axis that a dispatching Solution compares with the bounds of its table, None if it has none.
        entry_point: flashinfer-bench's ``file::function``.
        language: flashinfer-bench's language of the Solution.
        dependencies: Packages that the exported Solution needs.
        destination_passing: Whether the entry point takes its outputs as last arguments.
        binding: flashinfer-bench's binding, for C++ and CUDA sources.
        starts: Valid configs to try early.
        defaults: The default by size, if it is not the same for all; the first row is ``default``.
        mode: How variants are timed on a GPU unless a sweep says otherwise: ``auto``, ``graph`` or ``eager``.
        model: What the family expects of a config ahead of any measurement, None if it says nothing.
    """

    name: str
    target: str
    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...]
    default: Config
    sources: Mapping[str, str] = field(repr=False)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    size_axis: str | None = None
    entry_point: str = "main.py::run"
    language: str = "python"
    dependencies: tuple[str, ...] = ()
    destination_passing: bool = True
    binding: str | None = None
    starts: tuple[Start, ...] = ()
    defaults: tuple[Start, ...] = ()
    mode: str = "auto"
    model: Model | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [p.name for p in self.parameters]
        if len(set(names)) != len(names):
            raise SpaceError(f"space {self.name!r}: a parameter is declared twice: {names}")
        for constraint in self.constraints:
            unknown = sorted(set(constraint.parameters) - set(names))
            if unknown:
                raise SpaceError(
                    f"space {self.name!r}: constraint {constraint.reason!r} names unknown {unknown}; known are {names}"
                )
        for generated in self.generated_files:
            if generated in self.sources:
                raise SpaceError(f"space {self.name!r}: {generated} is generated and cannot be among the sources")
        named = {"default": self.default, **{f"start {i}": s.config for i, s in enumerate(self.starts, 1)}}
        named |= {f"default of row {i}": s.config for i, s in enumerate(self.defaults, 1)}
        for what, config in named.items():
            why = self.violation(self.check(config), None if what == "default" else self.default)
            if why is not None:
                raise SpaceError(f"space {self.name!r}: the {what} config is not valid: {why}")

    @property
    def generated_files(self) -> tuple[str, ...]:
        """Files in which two variants differ: ``config.py``, for C++ and CUDA also ``config.h``."""
        return (CONFIG_FILE, HEADER_FILE) if self.language in HEADER_LANGUAGES else (CONFIG_FILE,)

    def at(self, sizes: Collection[int]) -> SearchSpace:
        """This space where the size axis has these sizes.

        The default is that of the row of :attr:`default_table` that holds most of them. Constraints that read the size
        axis hold for all of them; starts that break one are left out.

        Raises:
            SpaceError: The default breaks a constraint there.
        """
        if not sizes:
            return self
        rows = [row_of(self.default_table, size) for size in sorted(sizes)]
        _, default = max(rows, key=rows.count)
        constraints = tuple(c.at(self.size_axis, sizes) for c in self.constraints)
        if constraints == self.constraints:
            return self if default == self.default else replace(self, default=default)
        starts = tuple(s for s in self.starts if all(c.admits(s.config) for c in constraints))
        try:
            return replace(self, default=default, defaults=(), constraints=constraints, starts=starts)
        except SpaceError as error:
            raise SpaceError(f"{error} (at {self.size_axis} {min(sizes)} to {max(sizes)})") from error

    def unfit_sizes(self, config: Mapping[str, Any], low: int, high: int) -> list[tuple[int, int]] | None:
        """Ranges of the size axis within ``low`` to ``high``, ends included, where a constraint forbids the config.

        None where that takes too long to find out, or there are too many: above ``MOST_SIZES`` and ``MOST_RANGES``.
        """
        sized = [c for c in self.constraints if c.at(self.size_axis, [1]) is not c]
        if not sized:
            return []
        if high - low >= MOST_SIZES:
            return None
        found: list[tuple[int, int]] = []
        for size in range(low, high + 1):
            if all(c.admits_at(config, self.size_axis, size) for c in sized):
                continue
            if found and found[-1][1] == size - 1:
                found[-1] = (found[-1][0], size)
            elif len(found) == MOST_RANGES:
                return None
            else:
                found.append((size, size))
        return found

    @property
    def default_table(self) -> list[tuple[int | None, Config]]:
        """The default as rows of a dispatch table: what runs today."""
        rows = sorted(self.defaults, key=lambda row: (row.largest is None, row.largest))
        table: list[tuple[int | None, Config]] = [(row.largest, row.config) for row in rows]
        if not table or table[-1][0] is not None:
            table.append((None, self.default))
        return table

    def by_axis(self, axis: str) -> SearchSpace:
        """This space where a Solution chooses by another axis.

        Raises:
            SpaceError: The default or a constraint goes by the space's own.
        """
        sized = [c for c in self.constraints if c.at(self.size_axis, [1]) is not c]
        if sized or self.defaults:
            what = f"its constraint {sized[0].reason!r}" if sized else "its default"
            raise SpaceError(f"size axis {axis!r}: space {self.name!r} goes by {self.size_axis!r}, as {what} does")
        return replace(self, size_axis=axis)

    @cached_property
    def by_name(self) -> dict[str, Parameter]:
        """Parameter of each name."""
        return {p.name: p for p in self.parameters}

    def check(self, config: Mapping[str, Any]) -> Config:
        """The config in canonical order, with each value taken from the declared ones.

        Raises:
            SpaceError: A parameter is unknown or missing, or a value is not among the allowed ones.
        """
        return checked_config(f"a config of space {self.name!r}", config, self.parameters)

    def violation(self, config: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> str | None:
        """The reason of a constraint that the complete config breaks, None if it is valid.

        Args:
            config: The config.
            known: A valid config that it was made from; of several broken constraints, that on the changes counts.
        """
        constraint = broken(self.constraints, config, known)
        return None if constraint is None else constraint.reason

    def is_valid(self, config: Mapping[str, Any]) -> bool:
        """True if no constraint is broken."""
        return self.violation(config) is None

    @cached_property
    def walk(self) -> Walk:
        """Lists and samples the valid configs."""
        return Walk(self.name, self.parameters, self.constraints, self.default)

    def config_at(self, point: tuple[int, ...]) -> Config:
        """The config at these positions of the value lists."""
        return {p.name: p.values[code] for p, code in zip(self.parameters, point, strict=True)}

    def enumerate(self, limit: int | None = None) -> Iterator[Config]:
        """Valid configs in lexicographic order of the value lists, at most ``limit``.

        Depth first; a branch is pruned by the first constraint that its values break.
        """
        yield from map(self.config_at, itertools.islice(self.walk.points(), limit))

    def sample(self, rng: random.Random) -> Config:
        """A random valid config, however rare valid ones are; sparse branches are more likely than in a uniform draw.

        Raises:
            SpaceError: No config is valid, or none was found within a few seconds.
        """
        return self.config_at(self.walk.sample(rng))

    def config_hash(self, config: Mapping[str, Any]) -> str:
        """Canonical hash of a config: 16 hex digits, independent of key order."""
        return hash_of({n: config[n] for n in self.by_name})

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything besides the config that a variant's behaviour depends on: sources, sizes, entry point."""
        digest = hashlib.sha256()
        head = [self.name, self.target, self.entry_point, self.language, dict(self.sizes), self.destination_passing]
        digest.update(json.dumps(head, sort_keys=True, default=str).encode())
        for path in sorted(self.sources):
            digest.update(f"\0{path}\0{self.sources[path]}".encode())
        return digest.hexdigest()[:16]

    def render(self, table: Sequence[tuple[int | None, Mapping[str, Any]]]) -> dict[str, str]:
        """The complete sources of a Solution.

        Args:
            table: Rows ``(upper bound of size_axis, config)`` in rising order; the last bound is None. A single
                variant is a table of one row.

        Returns:
            Path -> text, with ``config.py`` that defines ``SIZES``, ``TARGET``, ``TABLE`` and ``select(size)``; for C++
            and CUDA also ``config.h`` with macros, so that such a Solution has one row only.
        """
        bounds = [bound for bound, _ in table]
        if not table or bounds[-1] is not None or any(b is None for b in bounds[:-1]):
            raise SpaceError(f"a dispatch table ends with the bound None and has no other; got {bounds}")
        if len(table) > 1 and self.size_axis is None:
            raise SpaceError(f"space {self.name!r} has no size axis, so its Solution cannot dispatch")
        rows = [(bound, self.check(config)) for bound, config in table]
        header = {}
        if self.language in HEADER_LANGUAGES:
            if len(rows) > 1:
                raise SpaceError(
                    f"space {self.name!r}: a Solution in {self.language} holds one config, not {len(rows)}"
                )
            header = {HEADER_FILE: render_header(self.sizes, rows[0][1])}
        return {
            **self.sources,
            **header,
            CONFIG_FILE: _CONFIG_TEMPLATE.format(
                space=self.name,
                sizes=pprint.pformat(dict(self.sizes), width=100, sort_dicts=False),
                target=self.target,
                table=pprint.pformat(rows, width=100, sort_dicts=False),
            ),
        }

    def variant_sources(self, config: Mapping[str, Any]) -> dict[str, str]:
        """The Solution's sources for one config."""
        return self.render([(None, config)])


def row_of(table: Sequence[tuple[int | None, Config]], size: int) -> tuple[int | None, Config]:
    """The row of a dispatch table that holds a size, as the generated ``select`` finds it."""
    return next(row for row in table if row[0] is None or size <= row[0])


_CONFIG_TEMPLATE = '''\
"""The choices this Solution was built with (space {space}). Generated."""

SIZES = {sizes}
TARGET = {target!r}

# (largest size of the dispatch axis, config); the last row has no bound.
TABLE = {table}


def select(size=0):
    """The config for a problem of this size."""
    for bound, config in TABLE:
        if bound is None or size <= bound:
            return config
    raise AssertionError("the last row of TABLE has no bound")
'''


@dataclass(frozen=True)
class Proof:
    """Whether a family's own reading of an op gives what the definition's reference gives.

    Args:
        agrees: None if it could not be found out.
        detail: What differs, or why it is not known; one line.
    """

    agrees: bool | None
    detail: str


class SpaceFamily(ABC):
    """Makes the search space of a kernel family for a definition and a target.

    A definition is the parsed JSON document of flashinfer-bench's schema (keys ``name``, ``op_type``, ``axes``,
    ``inputs``, ``outputs``, ``reference``); families read sizes from it and never hard-code them.
    """

    name: str
    targets: tuple[str, ...]

    @abstractmethod
    def why_not(self, definition: Mapping[str, Any]) -> str | None:
        """Why this family cannot solve the definition, None if it can."""

    @abstractmethod
    def space(self, definition: Mapping[str, Any], target: str) -> SearchSpace:
        """The space for a definition that :meth:`why_not` accepts.

        Raises:
            SpaceError: The target is not one of ``targets``, or the definition is not solved.
        """

    def prove(self, definition: Mapping[str, Any]) -> Proof:
        """Check this family's interpretation of the definition against the reference, before a sweep; may take seconds.

        A family that takes only the sizes of axes from a definition has nothing to check.
        """
        return Proof(True, "the space reads nothing but the sizes of axes")

    def input_generator(self, definition: Mapping[str, Any]) -> InputGenerator | None:
        """What makes inputs by named profiles (``--profiles``), None if only recorded inputs make sense.

        Raises:
            SpaceError: The generator is not usable.
        """
        return None

    def emulated_cases(self, space: SearchSpace, config: Mapping[str, Any]) -> list[EmulatedCase]:
        """Inputs on which a config can be judged without a GPU.

        Raises:
            SpaceError: Nothing is known about this family's kernels.
        """
        raise SpaceError(f"space {self.name!r} does not say what its kernels must leave: it cannot be emulated")


def hash_of(config: Mapping[str, Any]) -> str:
    """Canonical hash of a config's parameters and values: 16 hex digits, independent of key order."""
    return hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode()).hexdigest()[:16]


def render_header(sizes: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """One macro for each parameter and size.

    A parameter ``tile`` becomes ``CONFIG_TILE``, an axis ``hidden_size`` becomes ``SIZE_HIDDEN_SIZE``. Booleans are 0
    or 1. A string is a string literal, and ``CONFIG_<PARAMETER>_IS_<VALUE>`` is defined as 1 for ``#ifdef``. A tuple is
    its elements with commas between them, and ``CONFIG_<PARAMETER>_0`` and so on are single ones.
    """
    lines = ["// The choices this Solution was built with. Generated.", "#pragma once", ""]
    for prefix, values in (("SIZE", sizes), ("CONFIG", config)):
        for name, value in values.items():
            lines += [f"#define {macro} {text}" for macro, text in macros(prefix, name, value)]
    return "\n".join(lines) + "\n"


def macros(prefix: str, name: str, value: Any) -> list[tuple[str, str]]:
    """The macros of one value in the header, with their texts."""
    macro = f"{prefix}_{macro_name(name)}"
    if isinstance(value, tuple):
        single = [(f"{macro}_{i}", _literal(v)) for i, v in enumerate(value)]
        return [(macro, ", ".join(text for _, text in single)), *single]
    named = [(f"{macro}_IS_{macro_name(value)}", "1")] if isinstance(value, str) else []
    return [(macro, _literal(value)), *named]


def macro_name(text: str) -> str:
    """The text in capitals, with an underscore for every character that is not allowed in a macro name."""
    return re.sub(r"[^A-Z0-9_]", "_", text.upper())


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return json.dumps(value) if isinstance(value, str) else repr(value)
