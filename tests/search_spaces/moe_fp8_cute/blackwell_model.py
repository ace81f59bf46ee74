"""A cluster of Blackwell CTAs as coroutines that wait, arrive and copy with the numbers of a plan.

The roles are those of gemm_sm100.py and producer_sm100.py, step by step; barriers count arrivals and bytes as mbarriers
do. A run fails where the real thing would hang, overtake, or overwrite what has not been read.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from search_spaces.moe_fp8_cute.solution.budget_sm100 import BlackwellPlan

Step = Iterator[Callable[[], bool]]
"""A role: yields conditions, goes on when they hold."""


@dataclass
class Barrier:
    """An mbarrier: a phase ends when all arrivals and all announced bytes are there."""

    name: str
    count: int
    phase: int = 0
    pending: int = field(init=False)
    bytes_due: int = 0

    def __post_init__(self) -> None:
        self.pending = self.count

    def change(self, arrivals: int = 0, announced: int = 0, delivered: int = 0) -> None:
        assert arrivals <= self.pending, f"{self.name}: more arrivals than {self.count}"
        self.pending -= arrivals
        self.bytes_due += announced - delivered
        if self.pending == 0 and self.bytes_due == 0:
            self.phase, self.pending = self.phase + 1, self.count

    def passed(self, parity: int) -> bool:
        """What try_wait.parity says: the phase of that parity is over."""
        return self.phase % 2 != parity


class Ring:
    """Where a role stands in a ring: the index of the slot and the parity it waits for."""

    def __init__(self, slots: int, parity: int):
        self.slots, self.at, self.parity = slots, 0, parity

    def advance(self) -> None:
        self.at += 1
        if self.at == self.slots:
            self.at, self.parity = 0, self.parity ^ 1


class Cta:
    """Barriers of one CTA and what its buffers hold."""

    def __init__(self, plan: BlackwellPlan, rank: int):
        def ring(name: str, slots: int, count: int) -> list[Barrier]:
            return [Barrier(f"{name}[{s}] of CTA {rank}", count) for s in range(slots)]

        self.full = ring("full", plan.stages, plan.full_arrivals)
        self.empty = ring("empty", plan.stages, plan.empty_arrivals)
        self.scale_full = ring("scale_full", plan.stages, plan.scale_arrivals)
        self.ready = ring("ready", plan.acc_stages, 1)
        self.drained = ring("drained", plan.acc_stages, plan.drained_arrivals)
        # Filled by copies with the number of the K block; MMA issuers and promotion warps check it.
        self.loaded: dict[tuple[str, int], list[int]] = {}
        self.accumulator: dict[int, int] = {}
        self.readers: Counter[int] = Counter()

    def barriers(self) -> list[Barrier]:
        return [*self.full, *self.empty, *self.scale_full, *self.ready, *self.drained]


class Cluster:
    """All roles of all CTAs for a number of K stages."""

    def __init__(self, plan: BlackwellPlan, k_stages: int):
        self.plan, self.k_stages = plan, k_stages
        self.ctas = [Cta(plan, r) for r in range(plan.cluster)]
        self.counted: Counter[str] = Counter()

    def leads(self, rank: int) -> bool:
        return self.plan.unit(rank) == rank

    def deliver(self, source: int, peers: tuple[int, ...], what: str, stage: int, k: int, rows: int) -> None:
        """A TMA box of ``rows`` rows for every peer; bytes count on the barrier of the peer's MMA issuer."""
        for peer in peers:
            self.ctas[peer].loaded.setdefault((what, stage), []).extend([k] * rows)
            self.ctas[self.plan.unit(peer)].full[stage].change(delivered=rows * self.plan.k_tile)

    def clear(self, rank: int, what: str, stage: int) -> None:
        """A buffer is about to be written again."""
        held = self.ctas[rank].loaded.get((what, stage), [])
        if len(set(held)) == 1 and len(held) == (self.plan.weight_rows if what == "weights" else self.plan.token_rows):
            held.clear()

    def weights(self, rank: int) -> Step:
        p, ring = self.plan, Ring(self.plan.stages, 1)
        peers = p.weight_peers(rank)
        for k in range(self.k_stages):
            yield lambda: self.ctas[rank].empty[ring.at].passed(ring.parity)
            for peer in peers:
                self.clear(peer, "weights", ring.at)
            if self.leads(rank):
                self.ctas[rank].full[ring.at].change(arrivals=1, announced=p.weight_bytes)
            yield lambda: True
            for _ in range(p.weight_copies):
                self.deliver(rank, peers, "weights", ring.at, k, p.tile_w // p.weight_pieces)
            ring.advance()
            self.count("weights", rank)
        for _ in range(p.stages if p.cluster > 1 else 0):
            yield lambda: self.ctas[rank].empty[ring.at].passed(ring.parity)
            ring.advance()

    def rows(self, rank: int) -> Step:
        p, ring = self.plan, Ring(self.plan.stages, 1)
        peers, cta = p.token_peers(rank), self.ctas[rank]
        by_threads = p.gather and not p.gather4
        for k in range(self.k_stages):
            yield lambda: cta.empty[ring.at].passed(ring.parity)
            for peer in peers:
                self.clear(peer, "tokens", ring.at)
            if self.leads(rank) and not by_threads:
                cta.full[ring.at].change(arrivals=1, announced=p.token_bytes)
            if not p.gather:
                cta.scale_full[ring.at].change(arrivals=1, announced=p.scale_bytes)
            yield lambda: True
            if by_threads:
                cta.loaded.setdefault(("tokens", ring.at), []).extend([k] * p.token_rows)
                cta.full[ring.at].change(arrivals=p.gather_threads)
            else:
                self.deliver(rank, peers, "tokens", ring.at, k, p.tile_t // p.token_pieces)
            cta.loaded["scales", ring.at] = [k]
            if p.gather:
                cta.scale_full[ring.at].change(arrivals=p.gather_threads)
            else:
                cta.scale_full[ring.at].change(delivered=4 * p.tile_t * p.k_per_stage)
            ring.advance()
            self.count("rows", rank)

    def multiply(self, rank: int) -> Step:
        p, ring, acc = self.plan, Ring(self.plan.stages, 0), Ring(self.plan.acc_stages, 1)
        pair = (rank, rank + 1) if p.pair else (rank,)
        for k in range(self.k_stages):
            yield lambda: self.ctas[rank].full[ring.at].passed(ring.parity)
            for member in pair:
                held = self.ctas[member].loaded
                assert held.get(("weights", ring.at)) == [k] * p.weight_rows, f"weights of stage {ring.at}, K {k}"
                assert held.get(("tokens", ring.at)) == [k] * p.token_rows, f"tokens of stage {ring.at}, K {k}"
            for u in range(p.k_per_stage):
                yield lambda: self.ctas[rank].drained[acc.at].passed(acc.parity)
                for member in pair:
                    assert acc.at not in self.ctas[member].accumulator, "an accumulator is overwritten"
                    self.ctas[member].accumulator[acc.at] = k * p.k_per_stage + u
                yield lambda: True
                for member in pair:
                    self.ctas[member].ready[acc.at].change(arrivals=1)
                acc.advance()
                self.count("multiply", rank)
            for member in range(p.cluster):
                if p.commit_mask(rank) >> member & 1:
                    self.ctas[member].empty[ring.at].change(arrivals=1)
            ring.advance()

    def promote(self, rank: int, warp: int) -> Step:
        p, ring, acc = self.plan, Ring(self.plan.stages, 0), Ring(self.plan.acc_stages, 0)
        cta = self.ctas[rank]
        for k in range(self.k_stages):
            yield lambda: cta.scale_full[ring.at].passed(ring.parity)
            assert cta.loaded.get(("scales", ring.at)) == [k]
            for u in range(p.k_per_stage):
                if p.scales_first(p.width) and u == p.k_per_stage - 1:
                    cta.empty[ring.at].change(arrivals=1)
                yield lambda: cta.ready[acc.at].passed(acc.parity)
                assert cta.accumulator.get(acc.at) == k * p.k_per_stage + u
                drained = self.ctas[p.unit(rank)].drained[acc.at]
                cta.readers[acc.at] += 1
                if cta.readers[acc.at] == 4 * p.groups:
                    del cta.accumulator[acc.at], cta.readers[acc.at]
                drained.change(arrivals=1)
                acc.advance()
                self.count(f"promote {warp}", rank)
            if not p.scales_first(p.width):
                assert cta.loaded.get(("scales", ring.at)) == [k], "scales are overwritten before a warp has read them"
                cta.empty[ring.at].change(arrivals=1)
            ring.advance()

    def count(self, role: str, rank: int) -> None:
        self.counted[f"{role} of CTA {rank}"] += 1

    def run(self, rng: random.Random) -> Counter[str]:
        """Interleave the roles at random until all are through; K blocks or stages that each has done.

        Raises:
            AssertionError: Nobody can go on, a role meets a buffer that is not what it waits for, or a barrier is left
                in the middle of a phase.
        """
        p = self.plan
        roles: list[Step] = []
        for rank in range(p.cluster):
            roles += [self.weights(rank), self.rows(rank), *(self.promote(rank, w) for w in range(4 * p.groups))]
            if self.leads(rank):
                roles.append(self.multiply(rank))
        waiting = [(role, next(role)) for role in roles]
        while waiting:
            free = [i for i, (_, holds) in enumerate(waiting) if holds()]
            assert free, f"{len(waiting)} roles wait for ever"
            i = rng.choice(free)
            role = waiting[i][0]
            try:
                waiting[i] = (role, next(role))
            except StopIteration:
                waiting.pop(i)
        for barrier in (b for cta in self.ctas for b in cta.barriers()):
            assert barrier.pending == barrier.count, f"{barrier.name} has arrivals of nobody's phase"
            assert barrier.bytes_due == 0, f"{barrier.name} has bytes of nobody's phase"
        return self.counted
