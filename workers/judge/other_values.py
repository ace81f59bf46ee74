"""Puts other values into a workload's inputs, at the same addresses, so that remembered answers are wrong.

There are two kinds. An :class:`Alteration` replaces blocks of the float inputs by other blocks of the same tensor. The
reference's answer to it is known, so a run on it can be verified. A *nudge* changes small numbers of a piece of every
input, before every sample: no two samples see the same inputs, so an answer that is remembered under a digest of all
inputs, or of many of their bytes, is useless too. Both are undone, after which the digests of the inputs must be the
same as before.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SHARES = (1 / 256, 1 / 16, 1.0)
"""Shares of an input's blocks to replace; the first with which the old answer is wrong is used. The fewer blocks, the
less likely it is that a candidate which compares some of the bytes notices."""

_BLOCKS = 256
"""Number of blocks of a tensor; fewer if it has fewer elements."""

_MOST_BYTES = 32 << 20
"""Most bytes of one input that are replaced: more would take longer than the sample."""

_NUDGED = 16
"""Number of pieces of an input that nudges change. In the order of a Gray code they make 65,536 different inputs."""

_LOOKED_AT = 32
"""Number of pieces that are looked at for those."""

_MOST_OF_A_PIECE = 8 << 10
"""Bytes of a piece, which otherwise has as many elements as a block."""

_KEPT_BITS = 7
"""Leading bits of a mantissa that nudges keep: numbers change by less than 1 %, of coarser formats in the last bit."""

_WIDTHS = {8: "int64", 4: "int32", 2: "int16", 1: "uint8"}
"""Bytes -> the type as which blocks are moved: the wider, the fewer elements."""


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


def choose(inputs: Sequence[Any], share: float, rng: random.Random, drawn: Collection[int] = ()) -> Alteration | None:
    """Choose blocks of every float input; None if there is none with two blocks.

    Whole numbers and booleans stay unchanged, since they may be lengths, offsets or indices; but not those at the
    positions ``drawn``, all of whose elements were drawn at random, independent of each other: any order is as good.
    """
    places = []
    for index, value in enumerate(inputs):
        if not (_has_blocks(value) and (value.is_floating_point() or index in drawn)):
            continue
        block = max(1, value.numel() // _BLOCKS)
        blocks = value.numel() // block
        most = max(1, _MOST_BYTES // (block * value.element_size()))
        count = min(max(1, round(share * blocks)), most, blocks)
        to = sorted(rng.sample(range(blocks), count))
        source = [(number + rng.randrange(1, blocks)) % blocks for number in to]
        turn = rng.randrange(0, block, max(1, max(_WIDTHS) // value.element_size()))
        places.append(Place(index, block, tuple(to), tuple(source), turn))
    return Alteration(tuple(places)) if places else None


def _has_blocks(value: Any) -> bool:
    import torch

    return (
        isinstance(value, torch.Tensor)
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
    _blocks: list[_Blocks] | None = None
    _ready: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)
    _nudges: list[_Nudges] | None = None

    def make_ready(self) -> None:
        """Gather old and new values of the altered blocks, so that :meth:`alter` is fast. Does not wait, except for the
        first time."""
        assert self.alteration is not None
        if self._blocks is None:
            self._blocks = [_Blocks(self.inputs[place.input], place) for place in self.alteration.places]
        self._ready = [(b.rows, b.to, b.rows[b.to], b.rows[b.source].roll(b.turn, 1)) for b in self._blocks]

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
        _add_all([change for nudges in self._nudges or () for change in nudges.undo()])

    def nudge(self) -> None:
        """Change small numbers in one piece of every input that may change, so that inputs differ from all before."""
        if self._nudges is None:
            self._nudges = [_Nudges(value) for value in self.inputs if _has_blocks(value) and value.is_floating_point()]
        _add_all([change for nudges in self._nudges for change in nudges.next()])


class _Blocks:
    """A tensor's blocks as rows of wide elements, and the numbers of a place's blocks where the tensor is."""

    def __init__(self, value: Any, place: Place) -> None:
        import torch

        flat, size = value.view(-1).view(torch.uint8), value.element_size()
        block, turn = place.block * size, place.turn * size
        width = math.gcd(block, turn, flat.data_ptr(), max(_WIDTHS))
        whole = flat[: flat.numel() // block * block].view(getattr(torch, _WIDTHS[width]))
        self.rows, self.turn = whole.view(-1, block // width), turn // width
        self.to, self.source = (torch.tensor(numbers, device=flat.device) for numbers in (place.to, place.source))


class _Nudges:
    """Changes small numbers in some pieces of a tensor, and changes them back.

    Differences are added to bytes and subtracted again: old values would repair what a candidate wrote there.
    """

    def __init__(self, value: Any) -> None:
        import torch

        rng = random.SystemRandom()
        data = _as_bytes(value)
        length = max(1, min(len(data) // _BLOCKS, _MOST_OF_A_PIECE // value.element_size()))
        pieces = data[: len(data) // length * length].view(-1, length, value.element_size())
        numbers = rng.sample(range(len(pieces)), min(_LOOKED_AT, len(pieces)))
        old = pieces[torch.tensor(numbers, device=data.device)]
        new = _with_small_ones_changed(old.view(value.dtype), rng.getrandbits(63)).view(torch.uint8)
        differing = (new != old).flatten(1).any(1).nonzero().view(-1)[:_NUDGED]
        self._places = [pieces[numbers[n]] for n in differing.tolist()]
        there = new[differing] - old[differing]  # bytes, modulo 256
        self._differences = list(zip((-there).unbind(), there.unbind(), strict=True))
        self._there: set[int] = set()
        self._wanted: set[int] = set()
        self._step = 0

    def next(self) -> list[tuple[Any, Any]]:
        """Places and differences such that one piece differs from the last time."""
        if not self._places:
            return []
        self._step += 1
        lowest = (self._step & -self._step).bit_length() - 1
        self._wanted ^= {min(lowest, len(self._places) - 1)}
        changed, self._there = self._there ^ self._wanted, set(self._wanted)
        return [(self._places[n], self._differences[n][n in self._there]) for n in changed]

    def undo(self) -> list[tuple[Any, Any]]:
        """Places and differences such that all are what they were, until the next time."""
        there, self._there = self._there, set()
        return [(self._places[n], self._differences[n][0]) for n in there]


def _with_small_ones_changed(values: Any, seed: int) -> Any:
    """Floats of which the smaller half differs in the last bits of the mantissa. Large ones stay, and as a piece of a
    short input may be one number, no change is large: they may decide how much work there is. Where a routing bias
    becomes another one, an expert more or fewer has rows, and samples cannot be compared."""
    import torch

    generator = torch.Generator(values.device).manual_seed(seed)
    mantissa = max(1, round(-math.log2(torch.finfo(values.dtype).eps)))
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    bits = values.view(kind)
    bound = 1 << max(1, mantissa - _KEPT_BITS)
    other = torch.randint(1, bound, bits.shape, generator=generator, device=bits.device, dtype=kind)
    changed = bits ^ other
    size = values.to(torch.float64).abs()
    usable = torch.isfinite(size) & torch.isfinite(changed.view(values.dtype).to(torch.float64)) & (size != 0)
    limit = torch.where(usable, size, torch.nan).nanmedian()
    return torch.where(usable & (size <= limit), changed, bits).view(values.dtype)


def _add_all(changes: Sequence[tuple[Any, Any]]) -> None:
    """Add each second tensor to the first, with one launch for all."""
    import torch

    if changes:
        places, differences = zip(*changes, strict=True)
        torch._foreach_add_(places, differences)


def _as_bytes(value: Any) -> Any:
    """The tensor as [elements, bytes of one], in which form any float format can be copied."""
    import torch

    return value.view(-1).view(torch.uint8).view(-1, value.element_size())
