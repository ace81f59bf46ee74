"""The workloads of a sweep beside those of the dataset: other input profiles and other sizes, and what each counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from search_spaces.inputs.generator import RECORDED, InputGenerator
from search_spaces.parameters import SpaceError
from workers.errors import DatasetError
from workers.fib.dataset import LENDS, LIKE, PROFILE, Document, Problem, profile_of

Sizes = tuple[int, ...] | Literal["listed", "auto"]
STEP = 2.0
"""Largest factor between neighbouring sizes of ``auto``."""


def mixed(
    problem: Problem,
    profiles: Mapping[str, float],
    sizes: Sizes,
    axis: str | None,
    generator: InputGenerator | None,
) -> Problem:
    """The problem with a workload for every profile at every size that is asked for.

    The dataset's own workloads always stay, since an export has to pass on them; they count nothing in the objective
    where ``recorded`` is not among the profiles, but the guard looks at them too.

    Args:
        problem: With the workloads of the dataset.
        profiles: Profile -> weight.
        sizes: Sizes to add, ``auto`` for some between and around those that are listed.
        axis: The axis that sizes are of.
        generator: The space's, None if it has none.

    Raises:
        DatasetError: A profile is not known, or cannot be made; sizes are asked for and there is no axis to vary.
    """
    named = [profile for profile in profiles if profile != RECORDED]
    fixed = _fixed(problem.definition)
    _check_profiles(named, generator, problem.name)
    listed = problem.workloads
    made = [_made(w, profile, generator, fixed) for w in listed for profile in named]
    for size in _added_sizes(listed, sizes, axis, problem.name):
        assert axis is not None
        like = min(listed, key=lambda w: abs(math.log((w["axes"][axis] or 0.5) / (size or 0.5))))
        other = {**like, "axes": {**like["axes"], axis: size}, "uuid": f"{axis}={size}"}
        made += [_made(other, profile, generator, fixed, like) for profile in named]
        if RECORDED in profiles:
            _check_rows(problem.definition, like, axis)
            made.append(_made(other, RECORDED, None, fixed, like))
    return replace(problem, workloads=(*listed, *made), generator=generator if named else None)


def weights(workloads: Iterable[Document], profiles: Mapping[str, float]) -> dict[str, float]:
    """Uuid -> what the workload counts in the objective."""
    return {w["uuid"]: profiles.get(profile_of(w), 0.0) for w in workloads}


def auto_sizes(listed: Sequence[int]) -> list[int]:
    """Sizes between those listed, so that neighbours are at most about twice apart, and one on each side of them."""
    known = sorted({size for size in listed if size > 0})
    if not known:
        return []
    found = {max(1, known[0] // 2), known[-1] * 2}
    for low, high in itertools.pairwise(known):
        steps = math.ceil(round(math.log(high / low, STEP), 6))
        found |= {round(low * (high / low) ** (i / steps)) for i in range(1, steps)}
    return sorted(found - set(listed))


def _fixed(definition: Mapping[str, Any]) -> list[str]:
    """Inputs whose shape no workload's axes change: weights, mostly."""
    axes = definition["axes"]
    shapes = {name: spec["shape"] for name, spec in definition["inputs"].items() if spec["shape"]}
    return [name for name, shape in shapes.items() if all(axes[axis]["type"] == "const" for axis in shape)]


def _made(
    like: Document,
    profile: str,
    generator: InputGenerator | None,
    fixed: Sequence[str],
    origin: Document | None = None,
) -> Document:
    """A workload after a listed one, its inputs after a profile.

    It has random inputs of a ``fixed`` shape in common with the listed one: for a MoE they are the weights, and large.
    """
    filled = () if generator is None or profile == RECORDED else generator.fills
    origin = origin or like
    lends = [n for n in fixed if n not in filled and like["inputs"].get(n, {}).get("type") == "random"]
    return {
        "uuid": f"{like['uuid']}~{profile}",
        "axes": dict(like["axes"]),
        "inputs": {name: {"type": "random"} if name in filled else spec for name, spec in like["inputs"].items()},
        PROFILE: profile,
        LIKE: {"uuid": origin["uuid"], "axes": dict(origin["axes"]), LENDS: lends},
    }


def _check_profiles(named: Sequence[str], generator: InputGenerator | None, definition: str) -> None:
    if named and generator is None:
        raise DatasetError(
            f"profile {named[0]!r}: the search space has no generator of inputs for {definition}, so only {RECORDED} "
            f"is possible; a folder's space.yaml can name one (inputs: FILE)"
        )
    try:
        for profile in named:
            assert generator is not None
            generator.split(profile)
    except SpaceError as error:
        raise DatasetError(str(error)) from None


def _added_sizes(listed: Sequence[Document], sizes: Sizes, axis: str | None, definition: str) -> list[int]:
    """The sizes that no listed workload has."""
    if sizes == "listed":
        return []
    if axis is None:
        raise DatasetError(
            f"sizes can only be added along a size axis, and {definition} is tuned without one (--size-axis)"
        )
    known = [w["axes"][axis] for w in listed]
    wanted = auto_sizes(known) if sizes == "auto" else list(sizes)
    return sorted(set(wanted) - set(known))


def _check_rows(definition: Mapping[str, Any], like: Document, axis: str) -> None:
    """Refuse to draw rows of files where that would not be an input of the op: of offsets, lengths and indices."""
    for name, spec in like["inputs"].items():
        given = definition["inputs"][name]
        if spec.get("type") == "safetensors" and axis in (given["shape"] or ()) and "int" in given["dtype"]:
            raise DatasetError(
                f"sizes with {RECORDED} inputs cannot be made: input {name!r} holds whole numbers, whose rows mean "
                f"nothing alone; name profiles that fill it, without {RECORDED}"
            )
