"""In which mode the trials of a regime are timed: figures of graphs and eager ones are never ranked together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from workers.records import AUTO, Measurement, Method, Status

EAGER = "eager"
_MOST_CHARS = 200

T = TypeVar("T")


@dataclass
class RegimeMode(Generic[T]):
    """Decides in which mode a regime's trials (``T``) are timed, if the sweep's mode is ``auto``.

    The first trial that passes decides, usually the default; others are held back until it has. If it cannot be
    captured in a graph, all are timed eagerly. If it can, a later trial that cannot is compared eagerly with a
    yardstick, a trial that can: its value is the yardstick's, plus the mean log ratio between their eager figures.

    Args:
        method: The sweep's method.

    Attributes:
        decided: The mode that the regime's trials are ranked in, None as long as it is open.
        why_eager: Why it is not a graph, if one was tried.
        held: Trials that wait for the decision.
    """

    method: Method
    decided: str | None = None
    why_eager: str = ""
    held: list[T] = field(default_factory=list)
    _is_deciding: bool = False
    _yardstick: tuple[float, float] | None = None
    """Objectives of one trial: in the regime's mode, and eagerly."""

    def __post_init__(self) -> None:
        if self.method.mode != AUTO:
            self.decided = self.method.mode

    def asked(self) -> Method:
        """The method of the next trial's job."""
        return replace(self.method, mode=EAGER) if self.decided == EAGER else self.method

    def stored(self, default: str) -> list[Method]:
        """The methods of stored measurements that may stand for a trial's; ``default`` is the target's first mode."""
        modes = [self.decided] if self.decided is not None else [default, EAGER]
        return [replace(self.method, mode=mode) for mode in modes]

    def holds(self, trial: T) -> bool:
        """Whether a trial has to wait until the mode is decided; the first one is the one that decides."""
        if self.decided is None and self._is_deciding:
            self.held.append(trial)
            return True
        self._is_deciding = True
        return False

    def note(self, status: Status, measured: Sequence[Measurement]) -> list[T]:
        """Learn from an evaluated trial, and return the trials that need not wait any longer."""
        self._is_deciding = False
        if self.decided is None and status in (Status.PASSED, Status.RACED_OUT) and measured:
            self.decided = measured[0].method.mode
            self.why_eager = str(measured[0].conditions.get("uncaptured", ""))
        free = self.held if self.decided is not None else self.held[:1]
        self.held = self.held[len(free) :]
        return free

    def is_other(self, measured: Sequence[Measurement]) -> bool:
        """Whether a trial was timed in another mode than the regime is ranked in."""
        return any(m.method.mode != self.decided for m in measured if m.status is Status.PASSED)

    @property
    def has_yardstick(self) -> bool:
        """Whether there is a trial that others can be compared with eagerly."""
        return self._yardstick is not None

    def set_yardstick(self, value: float, eagerly: float) -> None:
        """The objectives of one trial, in the regime's mode and eagerly."""
        self._yardstick = value, eagerly

    def ranked(self, eagerly: float) -> float | None:
        """The value of a trial with this eager objective, None as long as there is no yardstick."""
        if self._yardstick is None:
            return None
        value, yardstick = self._yardstick
        return value + eagerly - yardstick


def final_method(method: Method, finalists: Mapping[str, str]) -> Method:
    """The method of a final: eager if one of the finalists (key -> mode that it was timed in) works only so."""
    modes = set(finalists.values())
    return replace(method, mode=EAGER if EAGER in modes else next(iter(modes), method.mode))


def remarks(modes: Mapping[str, RegimeMode[T]], finals: Mapping[str, str]) -> tuple[str, ...]:
    """What was timed eagerly though graphs were tried, a line each.

    Args:
        modes: Regime -> its mode.
        finals: Regime -> mode of its final.
    """
    found: dict[str, list[str]] = {}
    for name, mode in modes.items():
        if mode.why_eager:
            why = " ".join(mode.why_eager.split())[:_MOST_CHARS]
            found.setdefault(f"all trials are timed eagerly, since of the default {why}", []).append(name)
        elif mode.method.mode == AUTO and finals.get(name) == EAGER and mode.decided != EAGER:
            found.setdefault("a finalist works eagerly only, so the final is timed eagerly", []).append(name)
    return tuple(f"{', '.join(names)}: {text}" for text, names in found.items())
