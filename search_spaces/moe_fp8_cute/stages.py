"""What each kernel of the pipeline must leave in memory, computed from what it finds there.

Every check takes the bytes that the kernel before has left, so a mistake shows at the kernel that makes it. Sums are
made in float64; an element may differ from them by its rounding and by ``NOISE`` of the root of the sum of its squared
products: what the tensor cores of a target cut off (Hopper keeps 13 fractional bits of an addend, Blackwell 25).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from search_spaces.emulated_case import EmulatedCase, StageError

from .routings import ROUTINGS, Routing, inputs
from .solution.plans import few_rows, launches, row_align, row_capacity

BLOCK = 128
NOISE = {"sm_90a": 2.0**-8, "sm_100a": 2.0**-15}
Arrays = Mapping[str, np.ndarray]


def _fp8_table() -> np.ndarray:
    """The 256 values of FP8 E4M3."""
    code = np.arange(256)
    field, part = code >> 3 & 15, code & 7
    size = np.where(field == 0, part * 2.0**-9, (part + 8) * 2.0 ** (field - 10.0))
    size[code & 127 == 127] = np.nan
    return np.where(code & 128, -size, size)


FP8 = _fp8_table()


def bfloat(words: np.ndarray) -> np.ndarray:
    """float64 of bfloat16 given as uint16."""
    return (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@dataclass(frozen=True)
class MoeProblem:
    """A config and a call.

    Args:
        config: The config.
        sizes: Of the definition.
        target: Of the config.
        tokens: T.
        offset: First local expert.
        scaling: Factor on the routing weights.
    """

    config: Mapping[str, Any]
    sizes: Mapping[str, Any]
    target: str
    tokens: int
    offset: int = 0
    scaling: float = 2.5

    @property
    def noise(self) -> float:
        """Share of an element's size that may be lost."""
        return NOISE[self.target]

    @property
    def split_rows(self) -> int:
        """Experts with more rows have launches of their own, in some calls; 0 where none ever have."""
        return int(self.config.get("split_rows", 0))

    def few_rows(self, memory: Arrays) -> int:
        """Experts with more rows have launches of their own in this call."""
        return few_rows(self.config, self.view(memory, "counts").tolist())

    @property
    def rows(self) -> int:
        """Capacity of the row space."""
        return row_capacity(self.config, self.sizes, self.tokens)

    def view(self, memory: Arrays, name: str) -> np.ndarray:
        """A tensor or section in its shape and type."""
        s, t, p = self.sizes, self.tokens, self.rows
        h, i, e, k = s["hidden"], s["intermediate"], s["local_experts"], s["top_k"]
        forms: dict[str, tuple[str, tuple[int, ...]]] = {
            "logits": ("f4" if s["routing"] == "deepseek" else "u2", (t, s["experts"])),
            "bias": ("u2", (s["experts"],)),
            "x": ("u1", (t, h)), "xs": ("f4", (h // BLOCK, t)), "out": ("u2", (t, h)), "acc": ("f4", (t, h)),
            "w13": ("u1", (e, 2 * i, h)), "s13": ("f4", (e, 2 * i // BLOCK, h // BLOCK)),
            "w2": ("u1", (e, h, i)), "s2": ("f4", (e, h // BLOCK, i // BLOCK)),
            "counts": ("i4", (e,)), "m_indptr": ("i4", (e + 1,)), "token_row": ("i4", (t, k)),
            "row_token": ("i4", (p,)), "row_weight": ("f4", (p,)), "act": ("u1", (p, i)),
            "act_scale": ("f4", (i // BLOCK, p)), "x_rows": ("u1", (p, h)), "x_scale": ("f4", (h // BLOCK, p)),
            "y": ("u2", (p, h)), "partial": ("f4", (self.config.get("split_k_1", 1), p, 2 * i)),
        }  # fmt: skip
        dtype, shape = forms[name]
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return memory[name][:count].view(dtype).reshape(shape)


def _compare(name: str, found: np.ndarray, wanted: np.ndarray, room: np.ndarray | float, at: np.ndarray | None) -> None:
    """Elements within ``room``; ``at`` are the rows that the first index counts, for the message.

    Raises:
        StageError: One is not; the worst is named.
    """
    error = np.abs(found - wanted)
    bad = ~(error <= room)
    if not bad.any():
        return
    excess = np.where(np.isnan(error), np.inf, error / np.maximum(room, 1e-300))
    worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
    where = list(map(int, worst))
    if at is not None:
        where[0] = int(at[worst[0]])
    rows = np.unique(np.nonzero(bad)[0])
    rows = rows if at is None else at[rows]
    shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    raise StageError(
        f"{name}{where} is {found[worst]:.6g}, expected {wanted[worst]:.6g}; "
        f"{int(bad.sum())} of {bad.size} elements are wrong, in {len(rows)} rows ({shown})"
    )


def _equal(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
    if not np.array_equal(found, wanted):
        worst = tuple(map(int, np.argwhere(found != wanted)[0]))
        raise StageError(f"{name}{list(worst)} is {found[worst]}, expected {wanted[worst]}; "
                         f"{int((found != wanted).sum())} of {found.size} elements are wrong")  # fmt: skip


# Routing.


def chosen(p: MoeProblem, memory: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Experts [T, top_k] by falling score, and their weights."""
    s = p.sizes
    k = s["top_k"]
    if s["routing"] != "deepseek":
        x = bfloat(p.view(memory, "logits"))
        best = np.argsort(-x, axis=1, kind="stable")[:, :k]
        e = np.exp(np.take_along_axis(x, best, 1) - x.max(1, keepdims=True))
        return best, e / e.sum(1, keepdims=True)
    score = 1.0 / (1.0 + np.exp(-p.view(memory, "logits").astype(np.float64)))
    biased = score + bfloat(p.view(memory, "bias"))
    groups = s["groups"]
    if groups > 1:
        parts = biased.reshape(len(score), groups, -1)
        strength = np.sort(parts, axis=2)[:, :, -2:].sum(2)
        kept = np.argsort(-strength, axis=1, kind="stable")[:, : s["topk_groups"]]
        mask = np.zeros((len(score), groups), bool)
        np.put_along_axis(mask, kept, True, 1)
        biased = np.where(np.repeat(mask, parts.shape[2], axis=1), biased, -np.inf)
    best = np.argsort(-biased, axis=1, kind="stable")[:, :k]
    picked = np.take_along_axis(score, best, 1)
    return best, picked / picked.sum(1, keepdims=True) * p.scaling


def check_routing(p: MoeProblem, memory: Arrays) -> None:
    """counts, m_indptr, row_token, row_weight and token_row."""
    experts, weights = chosen(p, memory)
    local = experts - p.offset
    local = np.where((local >= 0) & (local < p.sizes["local_experts"]), local, -1)
    counts = np.array([(local == e).sum() for e in range(p.sizes["local_experts"])])
    align = row_align(p.config)
    filled = -(-counts // align) * align
    pitch = filled
    if p.config["layout"] == "batched":
        pitch = np.full(len(counts), -(-p.tokens // align) * align)
    starts = np.concatenate([[0], np.cumsum(pitch)])
    _equal("counts", p.view(memory, "counts"), counts)
    _equal("m_indptr", p.view(memory, "m_indptr"), starts)
    token_row = np.full(local.shape, -1)
    row_token, row_weight = p.view(memory, "row_token"), p.view(memory, "row_weight").astype(np.float64)
    for e, count in enumerate(counts):
        token, slot = np.nonzero(local == e)
        rows = starts[e] + np.arange(count)
        token_row[token, slot] = rows
        wanted = np.full(filled[e], -1)
        wanted[:count] = token
        _equal(f"row_token of expert {e}", row_token[starts[e] : starts[e] + filled[e]], wanted)
        share = np.zeros(filled[e])
        share[:count] = weights[token, slot]
        _compare("row_weight", row_weight[starts[e] : starts[e] + filled[e]], share, 1e-5 * p.scaling, None)
    _equal("token_row", p.view(memory, "token_row"), token_row)


def real_rows(p: MoeProblem, memory: Arrays, which: str = "all") -> tuple[np.ndarray, np.ndarray]:
    """(row, expert) of every row that has a token, of all experts or some.

    Args:
        p: The config and the call.
        memory: What the kernels have left.
        which: ``all``; ``few`` rows; those ``above``; ``small``: those above where they are few tiles.
    """
    counts, starts = p.view(memory, "counts"), p.view(memory, "m_indptr")
    if which != "all" and p.split_rows:
        above, most = counts > p.few_rows(memory), int(p.config.get("small_tiles", 0))
        tiles = int((-(-counts[above] // p.config["small_tile_t"])).sum()) if most else 0
        small = above & (0 < tiles <= most)
        counts = np.where({"few": ~above, "above": above, "small": small}[which], counts, 0)
    rows = [np.arange(starts[e], starts[e] + n) for e, n in enumerate(counts)]
    return np.concatenate(rows), np.repeat(np.arange(len(counts)), counts)


def check_permute(p: MoeProblem, memory: Arrays) -> None:
    """x_rows and x_scale of rows with a token."""
    _permuted(p, memory, real_rows(p, memory, "above" if p.config["gather"] == "many" else "all")[0])


def _permuted(p: MoeProblem, memory: Arrays, rows: np.ndarray) -> None:
    """These rows, and their scales, are those of their tokens."""
    token = p.view(memory, "row_token")[rows]
    _equal("x_rows of the rows with a token", p.view(memory, "x_rows")[rows], p.view(memory, "x")[token])
    scale = p.view(memory, "x_scale")[:, rows]
    _equal("x_scale of the rows with a token", scale.view(np.uint32), p.view(memory, "xs")[:, token].view(np.uint32))


# GEMMs.


def _product(
    p: MoeProblem, x: np.ndarray, xs: np.ndarray, w: np.ndarray, ws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``x @ w.T`` with block scales, and the room that every element has.

    Shapes:
        x: [R, K] FP8 as bytes. xs: [R, K/128]. w: [N, K]. ws: [N/128, K/128].
    """
    total, squares = np.zeros((2, len(x), len(w)))
    for k in range(x.shape[1] // BLOCK):
        part = slice(k * BLOCK, (k + 1) * BLOCK)
        a = FP8[x[:, part]] * xs[:, k : k + 1].astype(np.float64)
        b = FP8[w[:, part]] * np.repeat(ws[:, k].astype(np.float64), BLOCK)[:, None]
        total += a @ b.T
        squares += (a * a) @ (b * b).T
    return total, p.noise * np.sqrt(squares) + 1e-6 * np.abs(total)


def _gemm_1(p: MoeProblem, memory: Arrays, expert: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    permuted = "x_rows" in memory
    if p.split_rows and p.config["gather"] in ("many", "beside"):
        permuted = len(rows) > p.few_rows(memory)
    if permuted:
        x, xs = p.view(memory, "x_rows")[rows], p.view(memory, "x_scale")[:, rows].T
    else:
        token = p.view(memory, "row_token")[rows]
        x, xs = p.view(memory, "x")[token], p.view(memory, "xs")[:, token].T
    return _product(p, x, xs, p.view(memory, "w13")[expert], p.view(memory, "s13")[expert])


def check_gemm_1(p: MoeProblem, memory: Arrays, which: str = "all") -> None:
    """Partial sums, or requantised activations and their scales."""
    rows, experts = real_rows(p, memory, which)
    if p.config["combine"] == "atomic_bf16" and which == "all" and p.config.get("feed", "grid") == "grid":
        # It is the last of GEMM 1's launches, and GEMM 2 adds; handed over tile by tile it has added already.
        _equal("out, to be cleared by GEMM 1,", p.view(memory, "out"), np.zeros((p.tokens, p.sizes["hidden"]), "u2"))
    if p.config["gather"] == "beside" and (which != "all" or not p.split_rows):
        _permuted(p, memory, rows)
    for e in np.unique(experts):
        mine = rows[experts == e]
        sums, room = _gemm_1(p, memory, int(e), mine)
        if "partial" in memory:
            found = p.view(memory, "partial")[:, mine].astype(np.float64).sum(0)
            _compare(f"partial sums of expert {e}", found, sums, room, mine)
        else:
            _check_activations(p, memory, int(e), mine, sums, room)


def check_act_quant(p: MoeProblem, memory: Arrays) -> None:
    """Requantised activations from partial sums."""
    rows, experts = real_rows(p, memory)
    for e in np.unique(experts):
        mine = rows[experts == e]
        sums = p.view(memory, "partial")[:, mine].astype(np.float64).sum(0)
        _check_activations(p, memory, int(e), mine, sums, 1e-6 * np.abs(sums))


def _check_activations(
    p: MoeProblem, memory: Arrays, expert: int, rows: np.ndarray, sums: np.ndarray, room: np.ndarray
) -> None:
    """SwiGLU, the largest magnitude of 128 columns, FP8."""
    half = sums.shape[1] // 2
    up, gate = sums[:, :half], sums[:, half:]
    with np.errstate(over="ignore"):
        sigmoid = 1.0 / (1.0 + np.exp(-gate))
    value = gate * sigmoid * up
    play = 1.2 * (room[:, half:] * np.abs(up) + np.abs(gate * sigmoid) * room[:, :half]) + 2e-6 * np.abs(value)
    shape = len(rows), half // BLOCK, BLOCK
    top = np.maximum(np.abs(value).reshape(shape).max(2), 1e-10)
    slack = play.reshape(shape).max(2)
    scale = p.view(memory, "act_scale")[:, rows].T.astype(np.float64)
    wanted, room = top / 448, (slack + 2e-6 * top) / 448
    if p.config.get("scaled_2"):
        wanted, least = (np.exp2(np.ceil(np.log2(s))) for s in (wanted + room, np.maximum(wanted - room, 1e-30)))
        room = wanted - least
    _compare(f"act_scale (transposed) of expert {expert}", scale, wanted, room, rows)
    each = np.repeat(scale, BLOCK, axis=1)
    found = FP8[p.view(memory, "act")[rows]] * each
    step = np.exp2(np.floor(np.log2(np.maximum(np.abs(value) + play, 2.0**-6 * each) / each)) - 3)
    _compare(f"act of expert {expert}", found, value, 0.501 * step * each + play, rows)


def _gemm_2(p: MoeProblem, memory: Arrays, expert: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    act, scale = p.view(memory, "act")[rows], p.view(memory, "act_scale")[:, rows].T
    return _product(p, act, scale, p.view(memory, "w2")[expert], p.view(memory, "s2")[expert])


def check_gemm_2(p: MoeProblem, memory: Arrays, which: str = "all") -> None:
    """Rows, or the weighted sums of tokens."""
    rows, experts = real_rows(p, memory, which)
    hidden = p.sizes["hidden"]
    token, weight = p.view(memory, "row_token")[rows], p.view(memory, "row_weight")[rows].astype(np.float64)
    sums, room, sizes, adds = (np.zeros((p.tokens, hidden)) for _ in range(4))
    for e in np.unique(experts):
        mine = experts == e
        value, play = _gemm_2(p, memory, int(e), rows[mine])
        if "y" in memory:
            found = bfloat(p.view(memory, "y")[rows[mine]])
            _compare(f"y of expert {e}", found, value, play + 2.0**-8 * np.abs(value), rows[mine])
            continue
        share = weight[mine][:, None]
        np.add.at(sums, token[mine], value * share)
        np.add.at(room, token[mine], play * share)
        np.add.at(sizes, token[mine], np.abs(value * share))
        np.add.at(adds, token[mine], 1.0)
    if "acc" in memory:
        _compare("acc", p.view(memory, "acc").astype(np.float64), sums, room + 1e-6 * sizes, None)
    elif "y" not in memory:
        # Each addend is rounded to bfloat16, and so is each sum.
        _compare("out", bfloat(p.view(memory, "out")), sums, room + 2.0**-8 * (adds + 1) * sizes, None)


def check_combine(p: MoeProblem, memory: Arrays) -> None:
    """The output from rows or from float32 sums."""
    found = bfloat(p.view(memory, "out"))
    if "acc" in memory:
        wanted = p.view(memory, "acc").astype(np.float64)
        _compare("out", found, wanted, 2.0**-8 * np.abs(wanted), None)
        return
    rows, weight = p.view(memory, "token_row"), p.view(memory, "row_weight")
    wanted, sizes = np.zeros((2, p.tokens, p.sizes["hidden"]))
    for k in range(rows.shape[1]):
        here = np.nonzero(rows[:, k] >= 0)[0]
        term = bfloat(p.view(memory, "y")[rows[here, k]]) * weight[rows[here, k]].astype(np.float64)[:, None]
        wanted[here] += term
        sizes[here] += np.abs(term)
    _compare("out", found, wanted, 2.0**-8 * np.abs(wanted) + 1e-6 * sizes, None)


def check_zero(p: MoeProblem, memory: Arrays) -> None:
    """Check that the zero kernel cleared the sums."""
    _equal("acc", p.view(memory, "acc"), np.zeros((p.tokens, p.sizes["hidden"]), np.float32))


CHECKS: dict[str, Callable[[MoeProblem, Arrays], None]] = {
    "combineZero": check_zero,
    "routing": check_routing,
    "permute": check_permute,
    "moe_gemm_1_small": partial(check_gemm_1, which="small"),
    "moe_gemm_1_many": partial(check_gemm_1, which="above"),
    "moe_gemm_1": check_gemm_1,
    "moe_act_quant": check_act_quant,
    "moe_gemm_2": partial(check_gemm_2, which="few"),
    "moe_gemm_2_many": check_gemm_2,
    "combineFinalize": check_combine,
    "combineCast": check_combine,
}
"""Kernel -> what it must leave; of launches that share the experts, a later one finds what those before have left."""


def cases(
    config: Mapping[str, Any], sizes: Mapping[str, Any], target: str, routings: Sequence[Routing] = ROUTINGS
) -> list[EmulatedCase]:
    """The inputs on which a config is judged without a GPU, with local experts in the middle."""
    offset = (sizes["experts"] - sizes["local_experts"]) // 2 if sizes["routing"] == "deepseek" else 0
    found = []
    for routing in routings:
        problem = MoeProblem(config, sizes, target, routing.tokens, offset)

        def check(kernel: str, memory: Arrays, problem: MoeProblem = problem) -> None:
            if kernel not in CHECKS:
                raise StageError(f"nothing is known about kernel {kernel}")
            CHECKS[kernel](problem, memory)

        contents = inputs(sizes, routing, offset)
        plans = launches(config, sizes)
        beside = frozenset(name for name, plan in plans if plan.chained)
        fed = frozenset(name for name, plan in plans if plan.fed)
        found.append(EmulatedCase(routing.name, routing.tokens, contents, check, offset, beside=beside, fed=fed))
    return found
