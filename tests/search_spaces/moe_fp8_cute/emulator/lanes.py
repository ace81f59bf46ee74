"""Exchanges between the lanes of a warp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .ptx import Instruction
from .rules import FLOATS, WARP, UnknownInstructionError, rule, type_of

if TYPE_CHECKING:
    from .simt import Warps


# Between the lanes of a warp. All lanes named by the member mask must be here.


def _together(w: Warps, mask: np.ndarray, i: Instruction) -> None:
    rows = mask.any(axis=1)
    if not (mask[rows] == w.alive[rows]).all():
        raise UnknownInstructionError(f"lanes of a warp are missing at {i}")


@rule("shfl")
def shuffle(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """shfl.sync.up, .down, .bfly and .idx over whole warps."""
    _together(w, mask, i)
    target = i.operands[0].split("|")
    value, lane = w.value(i.operands[1], 32), np.arange(WARP)
    b, c = w.value(i.operands[2], 32).astype(np.int64), w.value(i.operands[3], 32).astype(np.int64)
    segment, clamp = (c >> 8) & 31, c & 31
    floor = lane & segment
    top = floor | (clamp & ~segment)
    if "up" in i.parts:
        source, inside = lane - b, lane - b >= top
    elif "down" in i.parts:
        source, inside = lane + b, lane + b <= top
    elif "bfly" in i.parts:
        source, inside = lane ^ b, (lane ^ b) <= top
    else:
        source = floor | (b & ~segment)
        inside = source <= top
    source = np.where(inside, source, lane)
    w.set(target[0], np.take_along_axis(value, source, axis=1), mask)
    if len(target) > 1:
        w.set(target[1], inside, mask)


@rule("vote")
def vote(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """ballot, any, all."""
    _together(w, mask, i)
    text = i.operands[1]
    flags = (w.value(text.lstrip("!"), 1) ^ text.startswith("!")) & mask
    if "ballot" in i.parts:
        bits = (flags.astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(axis=1, keepdims=True)
        w.set(i.operands[0], bits.astype(np.uint32), mask)
    elif "any" in i.parts:
        w.set(i.operands[0], flags.any(axis=1, keepdims=True), mask)
    else:
        w.set(i.operands[0], (flags | ~mask).all(axis=1, keepdims=True), mask)


@rule("redux")
def reduce(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """min, max, add over the warp."""
    _together(w, mask, i)
    if any(p in FLOATS for p in i.parts):
        return
    kind, _ = type_of(i.parts)
    value = w.value(i.operands[1], 32).view(np.int32 if kind == "s" else np.uint32)
    how = {"max": np.max, "min": np.min, "add": np.sum}[next(p for p in i.parts if p in ("max", "min", "add"))]
    w.set(i.operands[0], how(value, axis=1, keepdims=True).astype(value.dtype).view(np.uint32), mask)


@rule("elect")
def elect(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """The lowest lane that is here."""
    lane, flag = i.operands[0].split("|")
    first = np.argmax(mask, axis=1)[:, None]
    w.set(lane, first.astype(np.uint32), mask)
    w.set(flag, np.arange(WARP)[None, :] == first, mask)


@rule("activemask")
def active(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """Lanes that are here."""
    bits = (mask.astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(axis=1, keepdims=True)
    w.set(i.operands[0], bits.astype(np.uint32), mask)
