"""Mistakes to plant in the kernels' PTX: one table, each with the config and the kernel that it is planted in.

A mistake finds instructions and gives one of their operands another value by an instruction before them, or leaves
them out. What finds it is not said here: the numbers, or a check of the emulator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from search_spaces.moe_fp8_cute.routings import Routing
from workers.emulator.ptx import Instruction, Kernel

Edit = Callable[[Kernel], Kernel]
Match = Callable[[Instruction], bool]
ROUTING = Routing("mistakes", 26, "uneven", 1.5)


@dataclass(frozen=True)
class Mistake:
    """``config`` is a row of conftest's CONFIGS for the target, ``kernel`` the short name of the kernel; the input has
    ``routing``."""

    name: str
    target: str
    config: str
    kernel: str
    edit: Edit
    routing: Routing = ROUTING


def begins(*parts: str, has: tuple[str, ...] = (), lacks: tuple[str, ...] = ()) -> Match:
    """Opcode begins with these parts, and has or lacks others."""

    def match(i: Instruction) -> bool:
        return (
            i.parts[: len(parts)] == parts
            and all(h in i.opcode for h in has)
            and not any(missing in i.opcode for missing in lacks)
        )

    return match


def _found(kernel: Kernel, match: Match, which: int | None) -> list[int]:
    """Positions of the matching instructions, or of one of them."""
    places = [n for n, i in enumerate(kernel.code) if match(i)]
    assert places, f"{kernel.name} has no such instruction"
    return places if which is None else [places[which]]


def _get(operands: Any, path: tuple[int, ...]) -> Any:
    for step in path:
        operands = operands[step]
    return operands


def _put(operands: Any, path: tuple[int, ...], value: Any) -> Any:
    if not path:
        return value
    out = list(operands)
    out[path[0]] = _put(out[path[0]], path[1:], value)
    return tuple(out) if isinstance(operands, tuple) else out


def alter(match: Match, path: tuple[int, ...], opcode: str, *more: str, which: int | None = None) -> Edit:
    """Operand at ``path`` becomes ``opcode`` of it and ``more``."""

    def edit(kernel: Kernel) -> Kernel:
        places, code, moved = _found(kernel, match, which), [], {}
        for n, i in enumerate(kernel.code):
            moved[n] = len(code)
            if n in places:
                old = _get(i.operands, path)
                base, _, offset = old.partition("+")
                letter = {"pred": "p", "16": "rs", "32": "r", "64": "rd"}[opcode.rpartition(".")[2].lstrip("bsu")]
                new = f"%{letter}99{n}"
                code.append(Instruction(opcode, [new, *([] if "mov" in opcode else [base]), *more], i.guard))
                target = f"{new}+{offset}" if offset else new
                i = replace(i, operands=_put(i.operands, path, target))
            code.append(i)
        moved[len(kernel.code)] = len(code)
        return replace(kernel, code=code, labels={k: moved[v] for k, v in kernel.labels.items()})

    return edit


def rewrite(match: Match, change: Callable[[Instruction], Instruction], which: int | None = None) -> Edit:
    """Instructions become others."""

    def edit(kernel: Kernel) -> Kernel:
        places = _found(kernel, match, which)
        return replace(kernel, code=[change(i) if n in places else i for n, i in enumerate(kernel.code)])

    return edit


def without(match: Match, which: int | None = None) -> Edit:
    """They are never executed; waits succeed at once."""

    def gone(i: Instruction) -> Instruction:
        if "try_wait" in i.opcode:
            return Instruction("setp.eq.b32", [i.operands[0], "0", "0"], i.guard)
        return Instruction("mov.b32", ["%r99999", "0"], i.guard)

    return rewrite(match, gone, which)


def exchanged(match: Match, first: tuple[int, ...], second: tuple[int, ...], which: int | None = None) -> Edit:
    """Two operands change places."""

    def swap(i: Instruction) -> Instruction:
        a, b = _get(i.operands, first), _get(i.operands, second)
        return replace(i, operands=_put(_put(i.operands, first, b), second, a))

    return rewrite(match, swap, which)


MMA, LD, WGMMA = begins("tcgen05", "mma"), begins("tcgen05", "ld"), begins("wgmma", "mma_async")
BOX, WEIGHTS = begins("cp", "async", "bulk", "tensor"), begins("cp", "async", "bulk", "tensor", "3d")
ROWS = begins("cp", "async", "bulk", "tensor", "2d", lacks=("gather4",))
WAIT, EXPECT = begins("mbarrier", "try_wait"), begins("mbarrier", "arrive", "expect_tx")
SHARE = begins("cp", "async", "bulk", "tensor", has=("multicast",))
COMMIT, BULK = begins("tcgen05", "commit"), begins("cp", "async", "bulk", "shared::cluster")
HALVES, MAGNITUDE = begins("cvt", has=("e4m3x2",)), begins("abs", "f32")
SWIZZLE_100, SWIZZLE_90 = 1 << 61, 1 << 62
TAKES = -6
"""Of the waits of a GEMM that hands rows over: the one for rows, before two of the MMA warp, three of promotion."""


def _counted_in_full(i: Instruction) -> Instruction:
    """A counter of copied rows seems to be complete."""
    return Instruction("mov.b32", [i.operands[0], "128"], i.guard)


def _compares(opcode: str, bound: int) -> Match:
    """A comparison with a constant."""
    return lambda i: i.opcode == opcode and i.operands[-1] == str(bound)


def _always(i: Instruction) -> Instruction:
    """A comparison holds whatever is compared."""
    return Instruction("setp.eq.b32", [i.operands[0], "0", "0"], i.guard)


def _on(target: str, config: str, kernel: str, edits: dict[str, Edit], routing: Routing = ROUTING) -> list[Mistake]:
    return [
        Mistake(f"{target} {config}: {name}", target, config, kernel, edit, routing) for name, edit in edits.items()
    ]


BLACKWELL = [
    *_on("sm_100a", "fused", "moe_gemm_1", {
        "swizzle of A is that of 64 bytes": alter(MMA, (1,), "xor.b64", str(6 * SWIZZLE_100)),
        "swizzle of B is none": alter(MMA, (2,), "xor.b64", str(2 * SWIZZLE_100)),
        "stride of A is halved": alter(MMA, (1,), "xor.b64", str(96 << 32)),
        "stride of B is doubled": alter(MMA, (2,), "xor.b64", str(192 << 32)),
        "last K step of A is the first": alter(MMA, (1,), "sub.s64", "6", which=-1),
        "B begins eight rows early": alter(MMA, (2,), "sub.s64", "64"),
        "N is halved": alter(MMA, (3,), "xor.b32", str(48 << 17)),
        "the first K step accumulates": alter(MMA, (-1,), "mov.pred", "-1"),
        "no K step accumulates": alter(MMA, (-1,), "mov.pred", "0"),
        "the accumulator is 32 columns off": alter(MMA, (0, 1), "add.s32", "32"),
        "two registers of a load are exchanged": exchanged(LD, (0, 1), (0, 2)),
        "a load begins 8 columns late": alter(LD, (1, 1), "add.s32", "8", which=0),
        "a warp loads the other half of its lanes": alter(LD, (1, 1), "xor.b32", str(16 << 16)),
        "up and gate are exchanged": alter(LD, (1, 1), "xor.b32", "128"),
        "loads are not waited for": without(begins("tcgen05", "wait::ld")),
        "no fence after the barrier": without(begins("tcgen05", "fence::after_thread_sync")),
        "no fence before the barrier": without(begins("tcgen05", "fence::before_thread_sync")),
        "no commit for the accumulator": without(COMMIT, 0),
        "weights of the next expert": alter(WEIGHTS, (1, 2, 2), "add.s32", "1"),
        "weight rows begin eight late": alter(WEIGHTS, (1, 2, 1), "add.s32", "8"),
        "K does not advance": alter(WEIGHTS, (1, 2, 0), "mov.b32", "0"),
        "gather takes the second row twice": rewrite(
            begins("cp", has=("gather4",)),
            lambda i: replace(i, operands=_put(i.operands, (1, 2, 1), _get(i.operands, (1, 2, 2)))),
        ),
        "128 bytes too many are announced": alter(EXPECT, (-1,), "add.s32", "128", which=0),
        "magnitudes forget negative values": rewrite(MAGNITUDE, lambda i: replace(i, opcode="mov.b32")),
        "halves of an FP8 pair are exchanged": exchanged(HALVES, (1,), (2,)),
        "scales go to the next row": alter(begins("st", "global", "b32"), (0, 1), "add.s64", "4"),
        "nobody waits for the kernel before": without(begins("griddepcontrol", "wait")),
        "tensor memory is not freed": without(begins("tcgen05", "dealloc")),
    }),
    *_on("sm_100a", "fused", "moe_gemm_2", {
        "rows go 16 bytes to the right": alter(begins("st", "global", "v4"), (0, 1), "add.s64", "16"),
        "rows of the act tensor are one off": alter(ROWS, (1, 2, 1), "add.s32", "1"),
        "token scales are those four rows later": alter(BULK, (1, 1), "add.s64", "16"),
        "the MMA warp does not wait for its stage": without(WAIT, 3),
    }),
    *_on("sm_100a", "fused", "combineFinalize", {
        "weights come from the next row": alter(begins("ld", "global", "b32"), (1, 1), "add.s64", "4", which=-1)
    }),
    *_on("sm_100a", "multicast", "moe_gemm_1", {
        "a multicast reaches its first CTA alone": alter(SHARE, (3,), "mov.b16", "1"),
        "the halves of a pair are exchanged": alter(WEIGHTS, (1, 2, 1), "xor.b32", "64"),
        "a commit reaches the leader alone": alter(COMMIT, (1,), "mov.b16", "1"),
        "bytes are announced in both CTAs' size": alter(EXPECT, (-1,), "shr.u32", "1", which=0),
    }),
    *_on("sm_100a", "multicast", "moe_gemm_2", {
        "sums go to the next token": alter(begins("red"), (0, 1), "add.s64", "1024"),
    }),
    *_on("sm_100a", "apart", "moe_gemm_1", {
        "partial sums go to the next column": alter(begins("st", "global", "b32"), (0, 1), "add.s64", "4"),
        "the weight box is eight columns off": alter(
            begins("cp", "async", "bulk", "tensor", "5d"), (1, 2, 3), "xor.b32", "1"
        ),
    }),
    *_on("sm_100a", "apart", "moe_gemm_1", {
        "the halves of few rows lie as those of many": rewrite(_compares("setp.gt.s32", 32), _always, 0),
    }, Routing("most rows that are few", 32, "one_expert")),
    *_on("sm_100a", "split", "moe_gemm_2_many", {
        "rows are taken before they are left": without(WAIT, TAKES),
        "the phase of taken rows is off by one": alter(WAIT, (2,), "xor.b32", "1", which=-1),
        "the phase of the left rows is off by one": alter(WAIT, (2,), "xor.b32", "1", which=TAKES),
        "routing weights are those of the next row": alter(begins("ld", "shared", "f32"), (1, 1), "add.s32", "512"),
        "pieces of a row are taken from their neighbours": alter(begins("ld", "shared", "v4"), (1, 1), "xor.b32", "16"),
    }),
    *_on("sm_100a", "split", "moe_gemm_2_many", {
        "rows are left before those of the tile before are taken": without(WAIT, -1),
    }, Routing("many tiles for each CTA", 220, "natural", 2.5)),
    *_on("sm_100a", "narrow", "moe_gemm_1", {
        "no proxy fence before the MMA": without(begins("fence", "proxy")),
        "cp.async puts a chunk into its neighbour's place": alter(
            begins("cp", "async", "cg"), (0, 1), "xor.b32", "16"
        ),
        "the two N are exchanged": alter(MMA, (3,), "xor.b32", str(3 << 17)),
        "every tile is promoted like one of few rows": rewrite(_compares("setp.lt.s32", 9), _always),
        "a maximum is not shared with the cluster": alter(begins("mapa"), (2,), "mov.b32", "0"),
        "the phase of the maxima is off by one": alter(WAIT, (2,), "xor.b32", "1", which=-1),
    }),
]  # fmt: skip
HOPPER = [
    *_on("sm_90a", "fused", "moe_gemm_1", {
        "swizzle of A is none": alter(WGMMA, (1,), "xor.b64", str(SWIZZLE_90)),
        "swizzle of B is that of 64 bytes": alter(WGMMA, (2,), "xor.b64", str(3 * SWIZZLE_90)),
        "stride of B is doubled": alter(WGMMA, (2,), "xor.b64", str(192 << 32)),
        "no K step accumulates": alter(WGMMA, (3,), "mov.pred", "0"),
        "the first K step accumulates": alter(WGMMA, (3,), "mov.pred", "-1"),
        "sums are read one group early": rewrite(
            begins("wgmma", "wait_group"), lambda i: replace(i, operands=[str(int(i.operands[0]) + 1)])
        ),
        "the last MMA's K step is the first's": alter(WGMMA, (1,), "sub.s64", "6", which=3),
        "halves of an FP8 pair are exchanged": exchanged(HALVES, (1,), (2,)),
    }),
    *_on("sm_90a", "fused", "routing", {
        "ranks inside a chunk begin at one": alter(begins("st", "global", "b32"), (1,), "add.s32", "1", which=0),
        "another CTA's counts are read": alter(begins("mapa"), (2,), "mov.b32", "1", which=0),
    }),
    *_on("sm_90a", "multicast", "permute", {
        "rows come from the next token": alter(begins("ld", "global", "v4"), (1, 1), "add.s64", "512"),
    }),
    *_on("sm_90a", "split", "moe_gemm_1", {
        "the second launch ends before the first": without(begins("griddepcontrol", "wait")),
        "columns of the narrow MMA begin eight rows late": alter(WGMMA, (2,), "add.s64", "64", which=0),
    }),
    *_on("sm_90a", "split", "moe_gemm_2", {
        "turned rows go to the next token": alter(begins("red"), (0, 1), "add.s64", "1024"),
    }),
    *_on("sm_90a", "beside", "moe_gemm_1", {
        "rows are read before they are copied": rewrite(begins("ld", "acquire"), _counted_in_full),
        "rows are copied to the next row": alter(begins("st", "global", "v4", lacks=("cs",)), (0, 1), "add.s64", "512"),
        "scales come from the next token": alter(begins("ld", "global", "b32"), (1, 1), "add.s64", "4"),
        "a piece of every lane is not cleared": without(begins("st", "global", "cs"), 0),
    }),
    *_on("sm_90a", "multicast", "moe_gemm_2", {
        "a multicast reaches its first CTA alone": alter(SHARE, (3,), "mov.b16", "1"),
        "columns of a reduction are exchanged": exchanged(begins("red"), (1, 0), (1, 1)),
    }),
]  # fmt: skip
COPY, STORED = begins("tcgen05", "cp"), begins("st", "shared", "v4")
_ROUNDED_UP = str(-0x800000)
SCALED = {m.name: m for m in [
    *_on("sm_100a", "scaled", "moe_gemm_1", {
        "scales of A are those of another id": alter(MMA, (3,), "xor.b32", str(1 << 29)),
        "scales of B are those of another id": alter(MMA, (3,), "xor.b32", str(1 << 4)),
        "scales of A and B are exchanged": exchanged(MMA, (4,), (5,)),
        "scales of A begin a column late": alter(MMA, (4, 1), "add.s32", "1"),
        "scales of B begin four columns late": alter(MMA, (5, 1), "add.s32", "4"),
        "gate has the scales of up": alter(STORED, (0, 1), "sub.s32", "512", which=2),
        "token scales of 32 rows are exchanged": exchanged(STORED, (1, 0), (1, 1), which=0),
        "scales go to the next lane": alter(STORED, (0, 1), "add.s32", "16", which=0),
        "scales are those of the K block before": alter(COPY, (1,), "sub.s64", str(1536 >> 4)),
        "rows of the copy are doubly spaced": alter(COPY, (1,), "xor.b64", str((8 ^ 16) << 32)),
        "the copy goes four columns further": alter(COPY, (0, 1), "add.s32", "4", which=0),
        "half of the factors are not copied": without(COPY, 2),
        "no proxy fence before the copy": without(begins("fence", "proxy")),
        "no K block is added to the first": alter(MMA, (-1,), "mov.pred", "0", which=0),
        "the first K block adds": alter(MMA, (-1,), "mov.pred", "-1", which=0),
        "loads are not waited for": without(begins("tcgen05", "wait::ld")),
        "the accumulator is not waited for": without(WAIT, 0),
        "the requantised scale keeps its mantissa": rewrite(
            lambda i: i.opcode == "and.b32" and _ROUNDED_UP in i.operands,
            lambda i: Instruction("mov.b32", i.operands[:2], i.guard),
        ),
    }),
    *_on("sm_100a", "scaled", "moe_gemm_2", {
        "the scale warp arrives at its own CTA": alter(begins("mapa"), (2,), "mov.b32", "1", which=0),
        "the copy serves the leader alone": rewrite(
            COPY, lambda i: replace(i, opcode=i.opcode.replace("cta_group::2", "cta_group::1"))
        ),
        "token scales of 64 rows are exchanged": exchanged(STORED, (1, 0), (1, 2), which=0),
        "scales of the pair are those of another id": alter(MMA, (3,), "xor.b32", str(1 << 29)),
    }, Routing("rows for both CTAs of a pair", 140, "one_expert")),
]}  # fmt: skip
"""Of the form with scaled MMAs (test_scaled.py): its kernels are of a definition of their own."""
MISTAKES = {m.name: m for m in [*BLACKWELL, *HOPPER]}
