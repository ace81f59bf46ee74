"""Puts other values into a workload's inputs, at the same addresses, so that remembered answers are wrong.

There are two kinds. An :class:`Alteration` replaces blocks of the float inputs by other blocks of the same tensor. The
reference's answer to it is known, so a run on it can be verified. A *nudge* replaces one number of an input by another,
before every sample: no two samples see the same inputs, so an answer that is remembered under a digest of all inputs is
useless too. Both are undone, after which the digests of the inputs must be the same as before.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SHARES = (1 / 16, 1 / 4, 1.0)
"""Shares of an input's blocks to replace; the first with which the old answer is wrong is used. The fewer blocks, the
less likely it is that a candidate which compares some of the bytes notices."""

_BLOCKS = 256
"""Number of blocks of a tensor; fewer if it has fewer elements."""

_MOST_BYTES = 32 << 20
"""Most bytes of one input that are replaced: more would take longer than the sample."""

_NUDGED = 16
"""Number of places of an input that nudges change. In the order of a Gray code they make 65,536 different inputs."""


@dataclass(frozen=True)
class Place:
    """Blocks of one input that are replaced by others of it, rotated by some elements.

    Args:
        input: Position of the input.
        block: Elements per block.
        to: Numbers of the blocks that are replaced.
        source: Numbers of the blocks whose values they get.
        turn: Number of elements by which these are rotated.
    """

    input: int
    block: int
    to: tuple[int, ...]
    source: tuple[int, ...]
    turn: int


@dataclass(frozen=True)
class Alteration:
    """Other values for some of the inputs."""

    places: tuple[Place, ...]

    def document(self) -> list[dict[str, Any]]:
        """Plain values, for a file."""
        return [asdict(place) for place in self.places]

    @classmethod
    def of_document(cls, document: Sequence[dict[str, Any]]) -> Alteration:
        """The inverse of :meth:`document`."""
        return cls(tuple(Place(**place) for place in document))


def choose(inputs: Sequence[Any], share: float, rng: random.Random) -> Alteration | None:
    """Choose blocks of every float input; None if there is none with two blocks.

    Whole numbers stay unchanged: they may be lengths, offsets or indices.
    """
    places = []
    for index, value in enumerate(inputs):
        if not _is_changeable(value):
            continue
        block = max(1, value.numel() // _BLOCKS)
        blocks = value.numel() // block
        most = max(1, _MOST_BYTES // (block * value.element_size()))
        count = min(max(1, round(share * blocks)), most, blocks)
        to = sorted(rng.sample(range(blocks), count))
        source = [(number + rng.randrange(1, blocks)) % blocks for number in to]
        places.append(Place(index, block, tuple(to), tuple(source), rng.randrange(block)))
    return Alteration(tuple(places)) if places else None


def _is_changeable(value: Any) -> bool:
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.dim() > 0
        and value.numel() > 1
        and value.is_contiguous()
        and value.element_size() * value.numel() == value.nbytes
    )


@dataclass
class OtherValues:
    """The inputs of one workload and what can be done to them. Used by one candidate after the other.

    Args:
        inputs: The inputs that candidates get.
        alteration: The alteration whose answer is known, None if there is none.
    """

    inputs: Sequence[Any]
    alteration: Alteration | None
    _blocks: list[tuple[Any, Any]] = field(default_factory=list)
    _ready: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)
    _nudges: list[_Nudges] | None = None

    def make_ready(self) -> None:
        """Gather old and new values of the altered blocks, so that :meth:`alter` is fast."""
        import torch

        assert self.alteration is not None
        self._ready = []
        for place in self.alteration.places:
            flat = _as_bytes(self.inputs[place.input])
            rows = flat[: place.block * (flat.shape[0] // place.block)].view(-1, place.block, flat.shape[1])
            to, source = (torch.tensor(numbers, device=flat.device) for numbers in (place.to, place.source))
            self._ready.append((rows, to, rows[to], rows[source].roll(place.turn, 1)))

    def alter(self) -> None:
        """Alter the inputs, right after :meth:`make_ready`."""
        for rows, to, _, new in self._ready:
            rows.index_copy_(0, to, new)

    @contextlib.contextmanager
    def altered(self) -> Iterator[None]:
        """A context in which the inputs are altered."""
        self.make_ready()
        self.alter()
        try:
            yield
        finally:
            self.undo()

    def undo(self) -> None:
        """Undo all changes that were made here."""
        for rows, to, old, _ in self._ready:
            rows.index_copy_(0, to, old)
        self._ready = []
        for nudges in self._nudges or ():
            nudges.undo()

    def nudge(self) -> None:
        """Change one number in every input that can be changed, so that the inputs differ from all before."""
        import torch

        if self._nudges is None:
            self._nudges = [_Nudges(value) for value in self.inputs if _is_changeable(value)]
        if self._nudges:
            places, values = zip(*(change for nudges in self._nudges for change in nudges.next()), strict=True)
            torch._foreach_copy_(places, values)  # one launch for all


class _Nudges:
    """Exchanges some numbers of a tensor for others of it, and back."""

    def __init__(self, value: Any) -> None:
        rng = random.Random()
        data, count = _as_bytes(value), value.numel()
        numbers = rng.sample(range(count), min(_NUDGED, count))
        self._places = [data[n] for n in numbers]
        self._values = [(data[n].clone(), data[(n + rng.randrange(1, count)) % count].clone()) for n in numbers]
        self._there: set[int] = set()
        self._wanted: set[int] = set()
        self._step = 0

    def next(self) -> list[tuple[Any, Any]]:
        """Places and values such that one number differs from the last time."""
        self._step += 1
        lowest = (self._step & -self._step).bit_length() - 1
        self._wanted ^= {min(lowest, len(self._places) - 1)}
        changed, self._there = self._there ^ self._wanted, set(self._wanted)
        return [(self._places[n], self._values[n][n in self._there]) for n in changed]

    def undo(self) -> None:
        """Restore all numbers; the next nudge changes them again."""
        for number in self._there:
            self._places[number].copy_(self._values[number][0])
        self._there.clear()


def _as_bytes(value: Any) -> Any:
    """The tensor as [elements, bytes of one], in which form any float format can be copied."""
    import torch

    return value.view(-1).view(torch.uint8).view(-1, value.element_size())
