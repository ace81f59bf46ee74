"""Finished Optuna trials as a few dozen bytes each."""

from __future__ import annotations

import pickle
import struct
from array import array
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_HEAD = struct.Struct("<BbIIqq")
"""State, number of values (-1: no list), layout, extras, start and end in microseconds."""
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_NEVER = -(2**63)


def state_of(packed: bytes) -> TrialState:
    """The state of a packed trial."""
    return TrialState(packed[0])


@dataclass(frozen=True)
class _Layout:
    """What trials with the same parameters share.

    Args:
        distributions: By name, in the order in which a trial has them.
        code: Type of the array with the internal values: small numbers if all are positions in lists of choices.
    """

    distributions: tuple[tuple[str, BaseDistribution], ...]
    code: str

    @classmethod
    def of(cls, distributions: tuple[tuple[str, BaseDistribution], ...]) -> _Layout:
        short = all(isinstance(d, CategoricalDistribution) and len(d.choices) < 2**16 for _, d in distributions)
        return cls(distributions, "H" if short else "d")


@dataclass
class _Table(Generic[K, V]):
    """Values that many trials share, stored once and referred to by number."""

    numbers: dict[K, int] = field(default_factory=dict)
    things: list[V] = field(default_factory=list)

    def number(self, key: K, thing: V) -> int:
        """The number of the value with this key; a new value is stored."""
        known = self.numbers.get(key)
        if known is None:
            known = self.numbers[key] = len(self.things)
            self.things.append(thing)
        return known


class Packer:
    """Packs and unpacks trials; what many have in common is stored once.

    A trial becomes its state, values, times and the internal value of each parameter. Attributes and intermediate
    values are stored as a whole, since few trials differ in them.
    """

    def __init__(self) -> None:
        self._layouts: _Table[tuple[tuple[str, int], ...], _Layout] = _Table()
        self._extras: _Table[bytes, bytes] = _Table()

    def pack(self, trial: FrozenTrial) -> bytes:
        """The bytes of a trial, without its number and ID."""
        # Keyed by identity: comparing distributions would cost more than it saves. They are kept, so no id is reused.
        distributions = tuple((name, trial.distributions[name]) for name in trial.params)
        key = tuple((name, id(d)) for name, d in distributions)
        number = self._layouts.numbers.get(key)
        if number is None:
            number = self._layouts.number(key, _Layout.of(distributions))
        code = self._layouts.things[number].code
        internal = (d.to_internal_repr(trial.params[n]) for n, d in distributions)
        params = array(code, map(int, internal) if code == "H" else internal)
        extras = pickle.dumps((trial.user_attrs, trial.system_attrs, trial.intermediate_values))
        values = trial.values
        head = _HEAD.pack(
            trial.state.value,
            -1 if values is None else len(values),
            number,
            self._extras.number(extras, extras),
            _microseconds(trial.datetime_start),
            _microseconds(trial.datetime_complete),
        )
        return head + array("d", values or ()).tobytes() + params.tobytes()

    def unpack(self, packed: bytes, trial_id: int, number: int) -> FrozenTrial:
        """The trial that these bytes stand for."""
        state, count, layout_number, extras, start, end = _HEAD.unpack_from(packed)
        split = _HEAD.size + 8 * max(0, count)
        layout = self._layouts.things[layout_number]
        internal = array(layout.code, packed[split:])
        params = {n: d.to_external_repr(v) for (n, d), v in zip(layout.distributions, internal, strict=True)}
        user_attrs, system_attrs, intermediate = pickle.loads(self._extras.things[extras])
        return FrozenTrial(
            number=number,
            state=TrialState(state),
            value=None,
            values=None if count < 0 else list(array("d", packed[_HEAD.size : split])),
            datetime_start=_datetime(start),
            datetime_complete=_datetime(end),
            params=params,
            distributions=dict(layout.distributions),
            user_attrs=user_attrs,
            system_attrs=system_attrs,
            intermediate_values=intermediate,
            trial_id=trial_id,
        )


def _microseconds(moment: datetime | None) -> int:
    return _NEVER if moment is None else (moment - _EPOCH) // _MICROSECOND


def _datetime(microseconds: int) -> datetime | None:
    return None if microseconds == _NEVER else _EPOCH + microseconds * _MICROSECOND


def shallow(trial: FrozenTrial, **changes: Any) -> FrozenTrial:
    """A copy of a trial that shares every value that is not replaced."""
    copied = FrozenTrial.__new__(FrozenTrial)
    copied.__dict__.update(trial.__dict__)
    for name, value in changes.items():
        setattr(copied, name, value)
    return copied
