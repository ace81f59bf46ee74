"""Exchanges between the lanes of a warp: shuffles, votes, reductions, election."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import FaultError, UnknownInstructionError
from ..ptx import Instruction
from ..registers import WARP
from .table import operation

if TYPE_CHECKING:
    from ..machine import CtaCluster
    from ..warp import Warp

LANES = np.arange(WARP)


def _together(w: Warp, mask: np.ndarray, members: str, i: Instruction) -> None:
    """Check that all lanes of the member mask are active."""
    named = np.uint32(w.value(members, 32)[mask][0])
    wanted = ((named >> np.arange(WARP, dtype=np.uint32)) & 1).astype(bool) & w.alive
    if (wanted & ~mask).any():
        raise FaultError(f"lanes of a warp are missing at {i.opcode}")


@operation("shfl")
def shuffle(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """shfl.sync.up, .down, .bfly and .idx."""
    _together(w, mask, i.operands[4], i)
    target = i.operands[0].split("|")
    value = w.value(i.operands[1], 32)
    b, c = w.value(i.operands[2], 32).astype(np.int64) & 31, w.value(i.operands[3], 32).astype(np.int64)
    segment, clamp = (c >> 8) & 31, c & 31
    floor = LANES & segment
    top = floor | (clamp & ~segment)
    if "up" in i.parts:
        source = LANES - b
        inside = source >= top
    elif "down" in i.parts:
        source = LANES + b
        inside = source <= top
    elif "bfly" in i.parts:
        source = LANES ^ b
        inside = source <= top
    else:
        source = floor | (b & ~segment)
        inside = source <= top
    source = np.where(inside, source, LANES)
    w.set(target[0], value[source], mask)
    if len(target) > 1:
        w.set(target[1], inside, mask)


@operation("vote")
def vote(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """vote.sync: ballot, any and all."""
    _together(w, mask, i.operands[2], i)
    name = i.operands[1]
    flags = (w.value(name.lstrip("!"), 1) ^ name.startswith("!")) & mask
    if "ballot" in i.parts:
        out = int((flags.astype(np.uint64) << LANES.astype(np.uint64)).sum())
        w.set(i.operands[0], np.full(WARP, out, np.uint32), mask)
    elif "any" in i.parts:
        w.set(i.operands[0], np.full(WARP, flags.any()), mask)
    elif "all" in i.parts:
        w.set(i.operands[0], np.full(WARP, bool((flags | ~mask).all()), np.bool_), mask)
    else:
        raise UnknownInstructionError(str(i))


@operation("redux")
def reduce_lanes(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """Sum, minimum or maximum over the lanes."""
    _together(w, mask, i.operands[2], i)
    values = w.value(i.operands[1], 32)[mask]
    if i.parts[-1] == "s32":
        values = values.view(np.int32)
    found = {"add": np.add, "max": np.maximum, "min": np.minimum, "or": np.bitwise_or, "and": np.bitwise_and}
    function = next((f for name, f in found.items() if name in i.parts), None)
    if function is None or i.parts[-1] not in ("s32", "u32", "b32"):
        raise UnknownInstructionError(str(i))
    with np.errstate(over="ignore"):
        out = function.reduce(values)
    w.set(i.operands[0], np.full(WARP, out).astype(values.dtype).view(np.uint32), mask)


@operation("elect")
def elect(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """elect.sync: choose the lowest active lane."""
    first = int(np.nonzero(mask)[0][0])
    names = i.operands[0].split("|")
    w.set(names[0], np.full(WARP, first, np.uint32), mask)
    w.set(names[1], np.equal(LANES, first), mask)


@operation("activemask")
def active(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """activemask: the mask of active lanes."""
    out = int((mask.astype(np.uint64) << LANES.astype(np.uint64)).sum())
    w.set(i.operands[0], np.full(WARP, out, np.uint32), mask)


@operation("mapa")
def map_address(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """mapa: the same address in the shared memory of another CTA of the cluster."""
    from ..shared import INSIDE, RANK_SHIFT

    bits = 64 if i.parts[-1] == "u64" else 32
    rank = w.value(i.operands[2], 32)
    if m.launch.cluster == 1:
        # An H200 refused a kernel with such arrivals and stores as an illegal instruction.
        raise FaultError("shared memory of a cluster is used in a launch without clusters")
    if int(rank[mask].max()) >= len(m.ctas):
        raise FaultError(f"mapa to rank {int(rank[mask].max())} of {len(m.ctas)}")
    own = w.value(i.operands[1], bits) & np.uint32(INSIDE)
    w.set(i.operands[0], own | (rank.astype(own.dtype) << own.dtype.type(RANK_SHIFT)), mask)
