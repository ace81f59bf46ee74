"""Turns configs of a search space into variants for the workers."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces import Config, SearchSpace
from workers.records import Environment, Variant


def solution_variant(
    definition: str, space: SearchSpace, table: Sequence[tuple[int | None, Config]], key: str
) -> Variant:
    """The variant that dispatches by a table of ``(upper bound of the size axis, config)``."""
    return Variant(
        key=key,
        definition=definition,
        sources=space.render(table),
        entry_point=space.entry_point,
        language=space.language,
        target=space.target,
        dependencies=space.dependencies,
        destination_passing=space.destination_passing,
        binding=space.binding,
    )


def config_variant(definition: str, space: SearchSpace, config: Config) -> Variant:
    """The variant of one config; its key is the config's hash."""
    return solution_variant(definition, space, [(None, config)], space.config_hash(config))


def toolchain(seen: Environment) -> str:
    """The versions that a build depends on."""
    names = ("python", "numba", "torch", "cuda", "nvidia-cutlass-dsl", "apache-tvm-ffi")
    return " ".join(f"{n}={seen.versions[n]}" for n in names if n in seen.versions)
