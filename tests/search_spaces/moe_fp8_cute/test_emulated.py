"""The GEMM kernels' own code, executed without a GPU: barriers, copies, tiles and stores.

The compiler's PTX runs on an emulator (emulator/) with the arguments that the host function passes (launches/), cluster
by cluster, with warps and copies in random order. Float arithmetic is left out; everything around it is checked: no
deadlock, transaction bytes equal to the bytes that arrive, arrivals equal to the counts, no access outside a tensor,
none before ``griddepcontrol.wait``, no stage overwritten while it is read; all roles take the same tiles in the same
order, every output element is written exactly once and filling rows stay inside the workspace.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

from emulator.machine import Cluster
from emulator.memory import DeadlockError, FaultError, Lines, Region
from emulator.ptx import Kernel, read

from search_spaces.moe_fp8_cute.solution.plans import batch_rows, plans, row_align, row_capacity


@dataclass
class Routed:
    """A routing: ``counts`` [E], ``starts`` [E + 1], ``row_token`` [P], and the local experts of each token."""

    counts: np.ndarray
    starts: np.ndarray
    row_token: np.ndarray
    experts: list[np.ndarray]

    def rows(self, tile: int = 1) -> np.ndarray:
        """Rows of all experts, each segment filled up to whole tiles."""
        filled = -(-self.counts // tile) * tile
        return np.concatenate([np.arange(s, s + n) for s, n in zip(self.starts, filled, strict=False)])

    def expert_of(self, row: int) -> int:
        """The expert in whose segment a row lies."""
        return int(np.searchsorted(self.starts[:-1], row, side="right")) - 1


def routed(config: dict, sizes: dict, tokens: int, seed: int) -> Routed:
    """Random choices, laid out as routing.py describes; some experts stay empty."""
    rng = np.random.default_rng(seed)
    local, align = sizes["local_experts"], row_align(config)
    alive = rng.permutation(local)[: rng.integers(1, local + 1)]
    experts = [rng.permutation(alive)[: rng.integers(0, min(sizes["top_k"], len(alive)) + 1)] for _ in range(tokens)]
    tokens_of = [[t for t in range(tokens) if e in experts[t]] for e in range(local)]
    counts = np.array([len(t) for t in tokens_of], np.int32)
    filled = -(-counts // align) * align
    batched = config["layout"] == "batched"
    pitch = np.full(local, batch_rows(config, tokens)) if batched else filled
    starts = np.concatenate([[0], np.cumsum(pitch)]).astype(np.int32)
    row_token = np.full(row_capacity(config, sizes, tokens), 1 << 30, np.int32)
    for start, fill, these in zip(starts, filled, tokens_of, strict=False):
        row_token[start : start + fill] = -1
        row_token[start : start + len(these)] = these
    return Routed(counts, starts, row_token, experts)


def regions(memory: dict, config: dict, routing: Routed, which: int) -> dict[str, Region]:
    """Global memory as GEMM ``which`` finds it."""
    data = {"counts": routing.counts, "m_indptr": routing.starts, "row_token": routing.row_token}
    early = {"w13", "s13", "w2", "s2"} | ({"counts"} if which == 2 and config["early_weights"] else set())
    return {n: Region(n, at, size, data.get(n), n in early) for n, (at, size) in memory.items()}


def run(kernel: Kernel, launch: dict, memory: dict[str, Region], hidden: int, seed: int) -> list[Cluster]:
    """Execute a whole grid."""
    clusters = []
    for first in range(0, launch["grid"][0], launch["cluster"][0]):
        cluster = Cluster(
            kernel,
            [bytes.fromhex(argument) for argument in launch["arguments"]],
            first=first,
            size=launch["cluster"][0],
            grid=launch["grid"][0],
            threads=launch["block"][0],
            smem=launch["smem"],
            regions=list(memory.values()),
            seed=seed + first,
            pdl=launch["pdl"],
            promoters=launch["block"][0] // 32 - 4,
            pitches={"x": hidden},
        )
        cluster.run()
        clusters.append(cluster)
    return clusters


class Grids:
    """The two GEMMs of a built config, ready to be executed."""

    def __init__(self, built, row: int):
        self.built, self.row = built, row
        self.config, self.sizes = built.configs[row], built.space.sizes
        self.plans = plans(self.config, self.sizes)
        (answer,) = built.ask({"row": row, "tokens": 1, "raw": True})
        self.kernels = read((built.folder / "artifacts" / f"{answer['function']}.ptx").read_text())

    def launches(self, tokens: int, routing: Routed) -> list[tuple[int, Kernel, dict, dict[str, Region]]]:
        """(1 or 2, kernel, launch, memory) of both GEMMs."""
        (answer,) = self.built.ask({"row": self.row, "tokens": tokens, "raw": True})
        found = []
        for launch in answer["launches"]:
            if name := re.match(r"moe_gemm_([12])_", launch["kernel"]):
                memory = regions(answer["memory"], self.config, routing, int(name[1]))
                found.append((int(name[1]), self.kernels[launch["kernel"]], launch, memory))
        return found


@pytest.fixture(scope="module")
def grids(small_solution) -> dict[str, Grids]:
    """Both GEMMs of every config of the small Solution."""
    return {name: Grids(small_solution, row) for row, name in enumerate(small_solution.names)}


def check_stores(grids: Grids, which: int, memory: dict[str, Region], routing: Routed) -> None:
    """Real rows once, filling rows at most once, nothing else at all."""
    plan, hidden, inter = grids.plans[which - 1], grids.sizes["hidden"], grids.sizes["intermediate"]
    real, filled = routing.rows(), routing.rows(plan.tile_t * plan.cluster_t)
    written = {n for n, r in memory.items() if r.stores}

    def once(times: np.ndarray, axis: int) -> None:
        times = np.moveaxis(times, axis, 0)
        assert (times[real] == 1).all()
        assert (times[filled] <= 1).all()
        outside = np.ones(len(times), bool)
        outside[filled] = False
        assert not times[outside].any()

    capacity = len(routing.row_token)
    stored = {n: r.times("st") for n, r in memory.items()}
    if plan.out == "act":
        once(stored["act"][: capacity * inter].reshape(capacity, inter), 0)
        once(stored["act_scale"][: 4 * capacity * inter // 128].reshape(inter // 128, capacity, 4), 1)
    elif plan.out == "partial":
        once(stored["partial"][: plan.split_k * capacity * 8 * inter].reshape(plan.split_k, capacity, 8 * inter), 1)
    elif plan.out == "rows":
        once(stored["y"][: capacity * 2 * hidden].reshape(capacity, 2 * hidden), 0)
    else:
        name, width = ("acc", 4 * hidden) if plan.out == "atomic_f32" else ("out", 2 * hidden)
        tokens = len(routing.experts)
        added = memory[name].times("red")[: tokens * width].reshape(tokens, width)
        wanted = [len(e) * plan.split_k for e in routing.experts]
        assert (added == np.array(wanted)[:, None]).all()
        assert not stored[name].any()
    cleared = which == 1 and grids.config["combine"] == "atomic_bf16"
    if cleared:
        assert (stored["out"] == 1).all()
    names = {"act": {"act", "act_scale"}, "partial": {"partial"}, "rows": {"y"}, "atomic_f32": {"acc"}}
    assert written <= names.get(plan.out, {"out"}) | ({"out"} if cleared else set())


@dataclass(frozen=True)
class Block:
    """A K block of a CTA's tile: rows of the weights and of the tokens in the order of the tile, and its index."""

    weights: np.ndarray
    tokens: np.ndarray
    index: int


def tiles(plan, counts: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(expert, token tiles, weight tiles, K part) of the clusters' steps, in the order of sched.py's description."""
    groups, order = plan.weight_tiles // plan.cluster_w, []
    for expert, count in enumerate(counts):
        token_tiles = range(-(-int(count) // (plan.tile_t * plan.cluster_t)))
        pairs = [(t, g) for t in token_tiles for g in range(groups)]
        if plan.order == "tokens":
            pairs = [(t, g) for g in range(groups) for t in token_tiles]
        order += [(expert, t, g, part) for t, g in pairs for part in range(plan.split_k)]
    return order


def place(plan, counts: np.ndarray, step: tuple[int, int, int, int], rank: int) -> tuple[int, int]:
    """(token tile, weight tile) of the CTA at ``rank`` in a cluster's step."""
    expert, token_tile, group, _ = step
    if hasattr(plan, "place"):
        across_w, across_t = plan.place(rank)
        return token_tile * plan.cluster_t + across_t, group * plan.cluster_w + across_w
    if plan.shared == "weights" and (token_tile | 1) < -(-int(counts[expert]) // plan.tile_t):
        return (token_tile & ~1) + rank, 2 * group + (token_tile & 1)
    return token_tile, group * plan.cluster_w + rank


def blocks_of(plan, routing: Routed, steps: list, rank: int) -> list[Block]:
    """What a CTA has to multiply, in order."""
    blocks = []
    for step in steps:
        token_tile, weight_tile = place(plan, routing.counts, step, rank)
        expert, part = step[0], step[3]
        inside = np.arange(plan.tile_w)
        rows = weight_tile * plan.tile_w + inside
        if plan.paired:
            g = plan.interleave
            rows = weight_tile * plan.columns + inside // (2 * g) * g + inside % g + inside // g % 2 * (plan.n // 2)
        tokens = int(routing.starts[expert]) + token_tile * plan.tile_t + np.arange(plan.tile_t)
        if plan.gather:
            tokens = routing.row_token[tokens]
        first = part * plan.k_blocks
        blocks += [Block(expert * plan.n + rows, tokens, first + k) for k in range(plan.k_blocks)]
    return blocks


def holds(lines: Lines, rows: np.ndarray, index: int) -> bool:
    """Whether shared memory held these rows of this K block; zeros where there is no row."""
    return bool((lines.rows == rows).all() and (lines.blocks[rows >= 0] == index).all())


def part_of(lines: Lines, rows: np.ndarray, index: int) -> bool:
    """Whether shared memory held a part of these rows, from a multiple of 8 on."""
    size = len(lines.rows)
    return any(holds(lines, rows[i : i + size], index) for i in range(0, len(rows) - size + 1, 8))


def check_mmas(grids: Grids, which: int, clusters: list[Cluster], routing: Routed) -> None:
    """Every MMA multiplies the weights and the tokens of the K block whose turn it is, in every CTA."""
    plan = grids.plans[which - 1]
    steps = tiles(plan, routing.counts)
    for index, cluster in enumerate(clusters):
        mine = steps[index :: len(clusters)]
        blocks = {cta.rank: blocks_of(plan, routing, mine, cta.rank) for cta in cluster.ctas}
        if hasattr(plan, "acc_stages"):
            check_tensor_memory(plan, cluster, blocks)
        else:
            check_warpgroups(cluster, blocks, plan.swap)


def check_tensor_memory(plan, cluster: Cluster, blocks: dict[int, list[Block]]) -> None:
    """Blackwell: the leader's MMA warp, for itself or for a pair."""
    pair = 2 if plan.pair else 1
    rows = 64 * plan.groups
    for leader in range(0, plan.cluster, pair):
        ranks = range(leader, leader + pair)
        issued = [m for m in cluster.mmas if m.rank == leader]
        assert len(issued) == len(blocks[leader]) * plan.mmas
        for n, mma in enumerate(issued):
            at, s = divmod(n, plan.mmas)
            turn = [blocks[r][at] for r in ranks]
            m_side = [b.weights if plan.swap else b.tokens for b in turn]
            n_side = turn[0].tokens if plan.swap else turn[0].weights
            for lines, whole in zip(mma.a, m_side, strict=True):
                assert holds(lines, whole[s * rows : (s + 1) * rows], turn[0].index)
            share = len(n_side) // pair
            for half, lines in enumerate(mma.b):
                assert holds(lines, n_side[half * share : (half + 1) * share], turn[0].index)
    assert not [m for m in cluster.mmas if m.rank % pair]


def check_warpgroups(cluster: Cluster, blocks: dict[int, list[Block]], swap: bool) -> None:
    """Hopper: each warpgroup takes the blocks in order; those whose rows are all filling it may leave out."""
    for warp in {(m.rank, m.warp) for m in cluster.mmas}:
        left = iter(blocks[warp[0]])
        block = next(left)
        for mma in (m for m in cluster.mmas if (m.rank, m.warp) == warp):
            weights, tokens = (mma.a[0], mma.b[0]) if swap else (mma.b[0], mma.a[0])
            while not (part_of(weights, block.weights, block.index) and part_of(tokens, block.tokens, block.index)):
                block = next(left, None)
                assert block is not None, f"warp {warp} multiplies what is not its turn"


def execute(grids: Grids, tokens: int, seed: int) -> None:
    """Run both GEMMs on a random routing and check what they did."""
    routing = routed(grids.config, grids.sizes, tokens, seed)
    for which, kernel, launch, memory in grids.launches(tokens, routing):
        clusters = run(kernel, launch, memory, grids.sizes["hidden"], seed)
        check_stores(grids, which, memory, routing)
        check_mmas(grids, which, clusters, routing)


def test_both_gemms_do_their_tiles_exactly_once(grids):
    for seed, grid in enumerate(grids.values()):
        execute(grid, tokens=14, seed=seed)


def test_no_token_and_no_local_expert(grids):
    """Nothing to do: every role leaves, nothing is copied or stored but the cleared output."""
    for grid in grids.values():
        nobody = routed(grid.config, grid.sizes, 3, seed=0)
        nobody.counts[:], nobody.starts[:], nobody.experts[:] = 0, 0, [np.array([], int)] * 3
        for which, kernel, launch, memory in grid.launches(3, nobody):
            clusters = run(kernel, launch, memory, grid.sizes["hidden"], seed=0)
            assert not any(c.copies for c in clusters)
            assert {n for n, r in memory.items() if r.stores} <= ({"out"} if which == 1 else set())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tokens", [1, 5, 40, 130])
def test_both_gemms_on_many_routings(grids, tokens, seed):
    for grid in grids.values():
        execute(grid, tokens, 1000 * tokens + seed)


def constant(kernel: Kernel, register: str) -> int:
    """The literal that a register was given."""
    return int(next(i.operands[1] for i in kernel.code if i.parts[0] == "mov" and i.operands[0] == register))


def initialised(add: int, which: int) -> Callable[[Kernel], None]:
    """Change the arrivals that the ``which``-th barrier expects."""

    def change(kernel: Kernel) -> None:
        init = [i for i in kernel.code if i.parts[:2] == ("mbarrier", "init")][which]
        init.operands[1] = str(constant(kernel, init.operands[1]) + add)

    return change


def expected(add: int) -> Callable[[Kernel], None]:
    """Change the bytes that the first producer announces."""

    def change(kernel: Kernel) -> None:
        arrive = next(i for i in kernel.code if "expect_tx" in i.parts)
        arrive.operands[-1] = str(constant(kernel, arrive.operands[-1]) + add)

    return change


def without(*parts: str, which: int = 0) -> Callable[[Kernel], None]:
    """Leave out an instruction that begins like this: its guard never holds, or it succeeds at once."""

    def change(kernel: Kernel) -> None:
        found = [i for i in kernel.code if i.parts[: len(parts)] == parts and "expect_tx" not in i.parts]
        if "try_wait" in parts:
            found[which].__init__("setp.eq.b32", [found[which].operands[0], "0", "0"])
        else:
            found[which].guard = ("%never", True)

    return change


BROKEN = {
    "a full barrier expects one arrival more": (initialised(1, 0), "waits at mbarrier"),
    "an empty barrier expects one arrival less": (initialised(-1, 1), "is read|waited|ends inside a phase"),
    "an empty barrier expects one arrival more": (initialised(1, 1), "waits at mbarrier"),
    "more bytes announced than copied": (expected(128), "waits at mbarrier"),
    "fewer bytes announced than copied": (expected(-128), "waits at mbarrier"),
    "nobody waits for the previous kernel": (without("griddepcontrol", "wait"), "before griddepcontrol.wait"),
    "a producer does not wait for the consumers": (without("mbarrier", "try_wait"), "is read|two copies|more arrivals"),
    "a consumer does not give its stage back": (without("mbarrier", "arrive"), "waits at mbarrier"),
    "a consumer does not wait for its stage": (
        without("mbarrier", "try_wait", which=-1),
        "while a copy writes|which is read|nothing new|waited",
    ),
    "roles do not wait for the barriers to be there": (without("bar", "sync"), "no mbarrier"),
}


TENSOR_MEMORY = {
    "it is not freed": (without("tcgen05", "dealloc"), "ends with tensor memory"),
    "a load is not waited for": (without("tcgen05", "wait::ld"), "while a load"),
    "nobody hears that an accumulator is ready": (without("tcgen05", "commit"), "waits at mbarrier"),
}


@pytest.mark.parametrize("how", [*BROKEN, *TENSOR_MEMORY])
def test_the_emulator_sees_what_would_hang_or_corrupt(grids, how):
    """Each change is one that the device would answer with a hang or wrong numbers."""
    grid = grids["narrow"]
    if how in TENSOR_MEMORY and not hasattr(grid.plans[1], "acc_stages"):
        pytest.skip("Hopper has no tensor memory")
    change, message = {**BROKEN, **TENSOR_MEMORY}[how]
    routing = routed(grid.config, grid.sizes, 40, seed=4)
    _, kernel, launch, memory = grid.launches(40, routing)[1]
    broken = copy.deepcopy(kernel)
    change(broken)
    with pytest.raises((DeadlockError, FaultError), match=message):
        run(broken, launch, memory, grid.sizes["hidden"], seed=0)
