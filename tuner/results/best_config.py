"""The lookup: the best known config for a problem size on given hardware, and how it was found.

A lookup only reads records: it measures nothing and needs no GPU. It says how the config was found. If nothing is known
it returns None, never a guess and never the config of another GPU model.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from db.records import BestRow, WinnerWorkload
from search_spaces.targets import target_named
from tuner.errors import UsageError
from tuner.results.dispatch import NEAREST_LIMIT, holds, measured, nearest
from workers.records import Environment

if TYPE_CHECKING:
    from db.queries.lookups import Lookups

Found = Literal["exact", "regime", "nearest"]


@dataclass(frozen=True)
class BestConfig:
    """The answer to a lookup.

    Args:
        found: ``exact``: a workload of these axes was measured. ``regime``: the size lies between measured ones or in
            the bounded range that the config was chosen for. ``nearest``: it lies outside, by ``distance``.
        detail: The same as a sentence, with the sizes that the figures come from.
        distance: How many times larger or smaller the nearest measured size is; 1 for ``exact`` and ``regime``.
        config: The config of the search space.
        median_us: Median of the workload that was found; for ``regime`` the figure over all workloads of the regime.
            ``low_us`` and ``high_us`` are its 95 % interval.
        default_median_us: The default config's figure from the same comparison, None if it failed.
        size_axis: The axis that decided, None where one config serves all sizes.
        environment: Where it was measured; ``hardware`` is the model.
        age_s: Seconds since the sweep ended.
        solution: Name of the Solution exported from the sweep, None if there is none; ``export_id`` is its ID.
        profile: What the inputs looked like; "" for a mix of several profiles.
    """

    found: Found
    detail: str
    distance: float
    definition: str
    regime: str
    size_axis: str | None
    space: str
    space_fingerprint: str
    target: str
    config: Mapping[str, Any]
    config_hash: str
    median_us: float
    low_us: float
    high_us: float
    default_median_us: float | None
    hardware: str
    environment: Environment = field(repr=False)
    age_s: float
    sweep_id: int
    solution: str | None
    export_id: int | None
    profile: str = ""

    def document(self) -> dict[str, Any]:
        """The answer as JSON values, the same on the command line and over HTTP."""
        document = asdict(self)
        document["config"] = dict(self.config)
        return document


@dataclass(frozen=True)
class Match:
    """The row that answers, and which of its figures to report."""

    row: BestRow
    found: Found
    detail: str
    distance: float = 1.0
    workload: WinnerWorkload | None = None


def best_config(
    known: Lookups,
    definition: str,
    axes: Mapping[str, int],
    *,
    hardware: str | None = None,
    target: str | None = None,
    profile: str | None = None,
    now: float | None = None,
) -> BestConfig | None:
    """The answer of a store to the question of :func:`tuner.api.best_config`.

    Args:
        known: The part of the store with the winners.
        hardware: A GPU or CPU model as recorded, in upper or lower case; None if all records are of one model.
        target: Only what was built for this target; None for any.
        now: Unix time, from which the age is computed.
    """
    rows = known.rows(definition, hardware=hardware, target=checked_target(target))
    match = find(rows, definition, axes, profile)
    return None if match is None else answer(match, time.time() if now is None else now)


def checked_target(name: str | None) -> str | None:
    """The name, if there is such a target: a mistyped one is no question without an answer.

    Raises:
        UsageError: There is none of this name.
    """
    try:
        return None if name is None else target_named(name).name
    except ValueError as error:
        raise UsageError(str(error)) from None


def nothing_found(definition: str, axes: Sequence[str], hardware: str | None, target: str | None) -> str:
    """That there is no record, with what was asked for."""
    where = f"on {hardware or 'any hardware'}" + (f" for target {target}" if target is not None else "")
    return f"no record for {definition!r} with {' '.join(axes) or 'any size'} {where}"


def find(rows: Sequence[BestRow], definition: str, axes: Mapping[str, int], profile: str | None = None) -> Match | None:
    """The row of a definition, on the given hardware, that answers for this size and profile; None if there is none.

    Raises:
        UsageError: The question is incomplete, or names an axis that does not exist.
    """
    if not rows:
        return None
    models = sorted({row.environment.hardware for row in rows})
    if len(models) > 1:
        targets = sorted({row.target for row in rows})
        or_by = f" or --target ({', '.join(targets)})" if len(targets) > 1 else ""
        known = ", ".join(models)
        raise UsageError(f"{definition!r} was tuned on {known}; say which one is meant with --hardware{or_by}")
    rows = _of_profile(definition, rows, profile)
    _check_axes(definition, rows, axes)
    return _exact(rows, axes) or _regime(rows, axes) or _nearest(rows, axes)


def _of_profile(definition: str, rows: Sequence[BestRow], profile: str | None) -> list[BestRow]:
    """The rows of a profile; those of the mix for None.

    A sweep over one profile has no rows of its own for it: its mix is that profile.

    Raises:
        UsageError: Nothing was measured with inputs of this profile.
    """
    mix = [row for row in rows if not row.winner.profile]
    if profile is None:
        return mix
    pure = [row for row in mix if {w.profile for w in row.winner.workloads} == {profile}]
    found = [row for row in rows if row in pure or row.winner.profile == profile]
    if not found:
        known = sorted({w.profile for row in rows for w in row.winner.workloads})
        raise UsageError(f"{definition!r} was not tuned for profile {profile!r}; measured were {', '.join(known)}")
    return found


def _check_axes(definition: str, rows: Sequence[BestRow], axes: Mapping[str, int]) -> None:
    """Check the axes of a question.

    Raises:
        UsageError: An axis does not exist, or the size axis is missing.
    """
    deciding = {row.winner.size_axis for row in rows if row.winner.size_axis is not None}
    known = deciding | {name for row in rows for w in row.winner.workloads for name in w.axes}
    for name, value in axes.items():
        if known and name not in known:
            raise UsageError(f"{definition!r} has no variable axis {name!r}; its axes are {', '.join(sorted(known))}")
        if value < 0:
            raise UsageError(f"axis {name!r} cannot be {value}; sizes are not negative")
    missing = sorted(deciding - set(axes))
    if missing and len(deciding) == len(missing):
        raise UsageError(f"{definition!r} was tuned by size; say which one, such as --axes {missing[0]}=57")


def _exact(rows: Sequence[BestRow], axes: Mapping[str, int]) -> Match | None:
    """The newest row that measured a workload with the same axes; of several such workloads the slowest."""
    for row in rows:
        same = [w for w in row.winner.workloads if dict(w.axes) == dict(axes)]
        if same:
            slowest = max(same, key=lambda w: w.median_us)
            which = f"workload {slowest.workload}" + (f", the slowest of {len(same)}" if len(same) > 1 else "")
            return Match(row, "exact", f"measured on {which} with {_text(axes)}", workload=slowest)
    return None


def _regime(rows: Sequence[BestRow], axes: Mapping[str, int]) -> Match | None:
    """The newest row whose regime contains the size."""
    for row in rows:
        winner = row.winner
        if winner.size_axis is None:
            return Match(row, "regime", f"one config for all sizes, from {_over(row)}")
        size = axes.get(winner.size_axis)
        if size is not None and holds(winner, size):
            name = f"regime {winner.regime} of {winner.size_axis}" if winner.regime else f"all {winner.size_axis}"
            return Match(row, "regime", f"{name}, from {_over(row)}")
    return None


def _nearest(rows: Sequence[BestRow], axes: Mapping[str, int]) -> Match | None:
    """The row with the nearest measured size, the newest of several; None beyond :data:`NEAREST_LIMIT`."""
    best: Match | None = None
    best_place: tuple[float, int] | None = None
    for row in rows:
        axis = row.winner.size_axis
        size = axes.get(axis) if axis is not None else None
        found = None if size is None else nearest(row.winner, size)
        if found is None or found[0] > NEAREST_LIMIT:
            continue
        away, measured_size, workload = found
        if best_place is None or (away, measured_size) < best_place:
            detail = f"nearest measured size: {axis}={measured_size}, {away:.3g} times away"
            best, best_place = Match(row, "nearest", detail, away, workload), (away, measured_size)
    return best


def _over(row: BestRow) -> str:
    """What a regime's figures come from, as text."""
    sizes, count = [size for size, _ in measured(row.winner)], len(row.winner.workloads)
    ends = sorted({*sizes[:1], *sizes[-1:]})
    between = f" of size {' to '.join(map(str, ends))}" if ends else ""
    return f"{count} workload{'' if count == 1 else 's'}{between}"


def _text(axes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(axes.items())) or "no variable axes"


def answer(match: Match, now: float) -> BestConfig:
    """The answer for a row that :func:`find` returned."""
    row, winner = match.row, match.row.winner
    figures = match.workload or winner
    return BestConfig(
        found=match.found,
        detail=match.detail,
        distance=match.distance,
        definition=row.definition,
        regime=winner.regime,
        size_axis=winner.size_axis,
        space=row.space,
        space_fingerprint=row.space_fingerprint,
        target=row.target,
        config=winner.config,
        config_hash=winner.config_hash,
        median_us=figures.median_us,
        low_us=figures.low_us,
        high_us=figures.high_us,
        default_median_us=figures.default_median_us,
        hardware=row.environment.hardware,
        environment=row.environment,
        age_s=max(0.0, now - row.finished_at),
        sweep_id=row.sweep_id,
        solution=row.solution,
        export_id=row.export_id,
        profile=figures.profile or _one({w.profile for w in winner.workloads}),
    )


def _one(names: Collection[str]) -> str:
    """The only name, "" if there are several."""
    return next(iter(names)) if len(names) == 1 else ""
