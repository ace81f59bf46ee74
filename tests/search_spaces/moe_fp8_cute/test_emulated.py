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

from emulator.machine import Cluster, Copy, DeadlockError, FaultError, Region
from emulator.ptx import Kernel, read

from search_spaces.moe_fp8_cute.solution.plans import batch_rows, plans, row_align, row_capacity
from search_spaces.moe_fp8_cute.space import FAMILY

SMALL = {"num_experts": 64, "num_local_experts": 6, "hidden_size": 512, "intermediate_size": 512, "top_k": 4}
CTAS = 4
CONFIGS = {
    "sm_90a": {
        "fused": {"tile_w_2": 128},
        "apart": {
            **{"layout": "batched", "gather": "kernel", "requant": "kernel", "combine": "atomic_f32"},
            **{"pdl": False, "early_weights": False, "order": "weights", "swap_2": True, "tile_t_2": 16},
            **{"tile_w_2": 128, "split_k_1": 2, "split_k_2": 2, "stages_1": 3, "stages_2": 3},
        },
        "multicast": {
            **{"gather": "kernel", "combine": "atomic_bf16", "multicast_1": 2, "multicast_2": 2, "alternate": True},
            **{"tile_t_1": 128, "groups_1": 2, "stages_1": 4, "tile_t_2": 128, "groups_2": 2, "stages_2": 4},
        },
        "narrow": {
            **{"swap_1": True, "tile_t_1": 16, "tile_w_1": 128, "groups_1": 2, "stages_1": 3},
            **{"swap_2": True, "tile_t_2": 16, "tile_w_2": 128, "groups_2": 2, "stages_2": 3, "early_weights": False},
        },
    }
}
TARGETS = [t for t in FAMILY.targets if t in CONFIGS]


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


def run(kernel: Kernel, launch: dict, memory: dict[str, Region], seed: int) -> list[Cluster]:
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


@pytest.fixture(scope="module", params=TARGETS)
def grids(request, build_solution, make_definition) -> dict[str, Grids]:
    """Small sizes, few CTAs: many tiles each."""
    configs = CONFIGS[request.param]
    bounds = list(range(1, len(configs)))
    options = {"ctas": CTAS, "keep_ptx": True}
    built = build_solution(request.param, make_definition(**SMALL), [*configs.values()], bounds, **options)
    return {name: Grids(built, row) for row, name in enumerate(configs)}


def check_stores(grids: Grids, which: int, memory: dict[str, Region], routing: Routed) -> None:
    """Real rows once, filling rows at most once, nothing else at all."""
    plan, hidden, inter = grids.plans[which - 1], grids.sizes["hidden"], grids.sizes["intermediate"]
    real, filled = routing.rows(), routing.rows(plan.tile_t)
    written = {n for n, r in memory.items() if r.stores}

    def once(times: np.ndarray, axis: int) -> None:
        times = np.moveaxis(times, axis, 0)
        assert (times[real] == 1).all()
        assert (times[filled] <= 1).all()
        outside = np.ones(len(times), bool)
        outside[filled] = False
        assert not times[outside].any()

    capacity = len(routing.row_token)
    stored = {n: memory[n].times("st") for n in written}
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


def tiles(plan, counts: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(expert, token tile, group of weight tiles, K part) in the order of sched.py's description."""
    groups, order = plan.weight_tiles // plan.cluster, []
    for expert, count in enumerate(counts):
        token_tiles = range(-(-int(count) // plan.tile_t))
        pairs = [(t, g) for t in token_tiles for g in range(groups)]
        if plan.order == "tokens":
            pairs = [(t, g) for g in range(groups) for t in token_tiles]
        order += [(expert, t, g, part) for t, g in pairs for part in range(plan.split_k)]
    return order


def check_copies(grids: Grids, which: int, clusters: list[Cluster], routing: Routed) -> None:
    """Weights and rows of every K block belong together, and come in the order of the tiles."""
    plan = grids.plans[which - 1]
    for index, cluster in enumerate(clusters):
        mine = tiles(plan, routing.counts)[index :: len(clusters)]
        blocks = [(tile, k) for tile in mine for k in range(plan.k_blocks)]
        for cta in cluster.ctas:
            copies = [c for c in cluster.copies if c.rank == cta.rank]
            weights = [c for c in copies if c.source in ("w13", "w2")]
            for box, ((expert, _, group, part), k) in zip(weights, blocks, strict=True):
                assert box.at[0] == 128 * (part * plan.k_blocks + k)
                assert box.at[-1] == expert
                row = box.at[-2] * plan.interleave if plan.paired else box.at[1]
                assert row == (group * plan.cluster + cta.rank) * plan.columns
            (check_gather if plan.gather else check_boxes)(plan, copies, blocks, routing)


def check_boxes(plan, copies: list[Copy], blocks: list, routing: Routed) -> None:
    """Token rows of one CTA by TMA: its share of the tile's box, for all CTAs that multiply it."""
    boxes = [c for c in copies if c.kind == "tensor" and c.source not in ("w13", "w2")]
    share = plan.tile_t // plan.multicast
    for box, ((expert, token_tile, _, part), k) in zip(boxes, blocks, strict=True):
        row = int(routing.starts[expert]) + token_tile * plan.tile_t + share * (box.rank if plan.multicast > 1 else 0)
        assert box.at == (128 * (part * plan.k_blocks + k), row)
        assert box.targets == (tuple(range(plan.multicast)) if plan.multicast > 1 else (box.rank,))


def check_gather(plan, copies: list[Copy], blocks: list, routing: Routed) -> None:
    """Token rows of one CTA by cp.async: the tokens that the rows stand for, zeros for filling rows."""
    by_warp: dict[int, list[np.ndarray]] = {}
    for c in copies:
        if c.kind == "cp.async" and c.size == 16:
            by_warp.setdefault(c.warp, []).append(c.at)
    each = plan.tile_t * 8 // plan.gather_threads
    assert all(len(pieces) == each * len(blocks) for pieces in by_warp.values())
    assert len(by_warp) == (plan.gather_threads // 32 if blocks else 0)
    for n, ((expert, token_tile, _, part), k) in enumerate(blocks):
        sources = np.concatenate([p for pieces in by_warp.values() for p in pieces[n * each : (n + 1) * each]])
        row0, first = int(routing.starts[expert]) + token_tile * plan.tile_t, 128 * (part * plan.k_blocks + k)
        tokens = routing.row_token[row0 : row0 + plan.tile_t]
        wanted = [t * plan.k + first + 16 * chunk for t in tokens[tokens >= 0] for chunk in range(8)]
        assert sorted(sources[sources >= 0]) == sorted(wanted)
        assert len(sources) == plan.tile_t * 8


def execute(grids: Grids, tokens: int, seed: int) -> None:
    """Run both GEMMs on a random routing and check what they did."""
    routing = routed(grids.config, grids.sizes, tokens, seed)
    for which, kernel, launch, memory in grids.launches(tokens, routing):
        clusters = run(kernel, launch, memory, seed)
        check_stores(grids, which, memory, routing)
        check_copies(grids, which, clusters, routing)


def test_both_gemms_do_their_tiles_exactly_once(grids):
    for seed, (name, grid) in enumerate(grids.items()):
        print(name)
        execute(grid, tokens=21, seed=seed)


def test_no_token_and_no_local_expert(grids):
    """Nothing to do: every role leaves, nothing is copied or stored but the cleared output."""
    for grid in grids.values():
        nobody = routed(grid.config, grid.sizes, 3, seed=0)
        nobody.counts[:], nobody.starts[:], nobody.experts[:] = 0, 0, [np.array([], int)] * 3
        for which, kernel, launch, memory in grid.launches(3, nobody):
            clusters = run(kernel, launch, memory, seed=0)
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
    "an empty barrier expects one arrival less": (initialised(-1, 1), "is read|waited"),
    "an empty barrier expects one arrival more": (initialised(1, 1), "waits at mbarrier"),
    "more bytes announced than copied": (expected(128), "waits at mbarrier"),
    "fewer bytes announced than copied": (expected(-128), "waits at mbarrier"),
    "nobody waits for the previous kernel": (without("griddepcontrol", "wait"), "before griddepcontrol.wait"),
    "a producer does not wait for the consumers": (without("mbarrier", "try_wait"), "is read|two copies|more arrivals"),
    "a consumer does not give its stage back": (without("mbarrier", "arrive"), "waits at mbarrier"),
    "a consumer does not wait for its stage": (without("mbarrier", "try_wait", which=-1), "while a copy writes|waited"),
    "roles do not wait for the barriers to be there": (without("bar", "sync"), "no mbarrier"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_the_emulator_sees_what_would_hang_or_corrupt(grids, how):
    """Each change is one that the device would answer with a hang or wrong numbers."""
    change, message = BROKEN[how]
    grid = grids["narrow"]
    routing = routed(grid.config, grid.sizes, 40, seed=4)
    _, kernel, launch, memory = grid.launches(40, routing)[1]
    broken = copy.deepcopy(kernel)
    change(broken)
    with pytest.raises((DeadlockError, FaultError), match=message):
        run(broken, launch, memory, seed=0)
