"""The plan of one grouped GEMM on Blackwell: clusters, CTA pairs, barriers, tensor memory, in plain Python.

Every number that the kernel's barriers, copies and allocations use is stated here once, so that tests can add them up
without a GPU. No CuTe import.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .budget import BLOCK, SMEM_PER_CTA, SMEM_PER_SM, SMEM_RESERVED, GemmPlan

TMEM_COLUMNS = 512
"""Columns of 128 lanes x 32 bits of an SM's tensor memory; an allocation is a power of two from 32 on."""
LOAD_COLUMNS = 64
"""Accumulator columns that a warp loads at a time: 32 registers per thread. Two loads are alive, one under way and one
being added, so it is half of it beside 128 sums where registers are few or hold the scales of every column too."""
HANDOVER_BARRIER_BYTES = 512
"""Shared memory beside stages and handed-over rows: at most 46 barriers and the address of the tensor memory."""


@dataclass(frozen=True)
class BlackwellPlan(GemmPlan):
    """A :class:`GemmPlan` for tcgen05. ``tile_t`` and ``tile_w`` are what one CTA's accumulators cover.

    ``groups`` promotion warpgroups read an accumulator of ``64 * groups`` rows. With ``pair`` two CTAs issue one MMA of
    twice the rows: each holds its own rows of the M side and half of the N side. A cluster covers ``cluster_w`` weight
    tiles and ``cluster_t`` token tiles of one expert; what several of its CTAs need comes once, by multicast.

    Args:
        k_tile: K extent of a pipeline stage, a multiple of 128.
        acc_stages: Accumulators in tensor memory that the MMA warp may be ahead of promotion.
        pair: Two CTAs share each MMA (``cta_group::2``).
        cluster_w: CTAs of a cluster along the weights.
        cluster_t: CTAs of a cluster along the tokens.
        gather4: Gathered rows come by TMA, four indices an instruction; otherwise by cp.async.
        zeroes: A producer warp clears the output meanwhile.
        handover: Tokens as M, bfloat16 rows: they go through shared memory to a producer warp, which stores them beside
            the next tile (epilogue_handed.py).
        fallback: A GPU without room for a whole cluster may launch smaller ones in its place, of ``least`` CTAs. They
            take the same tiles and load for themselves what the others would have shared.
        scaled: The MMAs multiply with the scales, which must be powers of two: sums stay in tensor memory over all K
            (gemm_scaled_sm100.py). ``acc_stages`` then counts tiles.
    """

    k_tile: int = BLOCK
    acc_stages: int = 2
    pair: bool = False
    cluster_w: int = 1
    cluster_t: int = 1
    gather4: bool = False
    zeroes: bool = False
    handover: bool = False
    fallback: bool = False
    scaled: bool = False

    @property
    def sub_w(self) -> int:
        # Up and gate are separate columns of tensor memory, whatever the tile.
        return self.tile_w // 2 if self.paired and not self.swap else super().sub_w

    @property
    def k_per_stage(self) -> int:
        """K blocks of 128 in a stage."""
        return self.k_tile // BLOCK

    # Clusters: a CTA's rank counts first along the side that a pair splits.

    @property
    def cluster(self) -> int:
        return self.cluster_w * self.cluster_t

    def place(self, rank: Any) -> tuple[Any, Any]:
        """(weight tile, token tile) inside the cluster's of a CTA; integers or run-time values."""
        if self.swap:
            return rank % self.cluster_w, rank // self.cluster_w
        return rank // self.cluster_t, rank % self.cluster_t

    @property
    def weight_halves(self) -> int:
        """CTAs that a weight tile is split over: the N side of a pair's MMA."""
        return 2 if self.pair and not self.swap else 1

    @property
    def token_halves(self) -> int:
        """CTAs that a token tile is split over: the N side of a pair's MMA."""
        return 2 if self.pair and self.swap else 1

    def weight_peers(self, rank: int) -> tuple[int, ...]:
        """Ranks that hold the same weight rows as ``rank``."""
        w, t = self.place(rank)
        same = [(self.place(r), r) for r in range(self.cluster)]
        return tuple(r for (rw, rt), r in same if rw == w and (rt - t) % self.weight_halves == 0)

    def token_peers(self, rank: int) -> tuple[int, ...]:
        """Ranks that get the token rows of ``rank`` by the same multicast; only itself where multicast does not
        pay or is impossible."""
        w, t = self.place(rank)
        same = [(self.place(r), r) for r in range(self.cluster)]
        peers = tuple(r for (rw, rt), r in same if rt == t and (rw - w) % self.token_halves == 0)
        if self.gather or self.token_rows // len(peers) < 8:
            return (rank,)
        return peers

    @property
    def least(self) -> int:
        """CTAs of the smallest cluster that the launch may get: pairs and those that share maxima stay together."""
        return max(2 if self.pair else 1, self.amax_ctas) if self.fallback else self.cluster

    def near(self, rank: int, peers: tuple[int, ...]) -> tuple[int, ...]:
        """Those of some peers that ``rank`` has in a cluster of ``least`` CTAs too."""
        return tuple(peer for peer in peers if peer // self.least == rank // self.least)

    def unit(self, rank: int) -> int:
        """Rank that issues the MMAs which read the shared memory of ``rank``."""
        return rank // 2 * 2 if self.pair else rank

    def readers(self, rank: int) -> frozenset[int]:
        """MMA issuers that must be done with a stage before ``rank`` may load it again."""
        return frozenset(self.unit(r) for r in (rank, *self.weight_peers(rank), *self.token_peers(rank)))

    def near_readers(self, rank: int) -> frozenset[int]:
        """The same in a cluster of ``least`` CTAs."""
        return frozenset(self.near(rank, tuple(self.readers(rank))))

    def commit_mask(self, rank: int) -> int:
        """CTAs whose ``empty`` barrier the issuer ``rank`` arrives on."""
        return sum(1 << r for r in range(self.cluster) if self.unit(rank) in self.readers(r))

    def near_commit_mask(self, rank: int) -> int:
        """The same in a cluster of ``least`` CTAs, by their ranks there."""
        return sum(1 << r % self.least for r in range(self.cluster) if self.unit(rank) in self.near_readers(r))

    # One stage: copies and bytes.

    @property
    def weight_rows(self) -> int:
        """Weight rows in the shared memory of a CTA."""
        return self.tile_w // self.weight_halves

    @property
    def token_rows(self) -> int:
        """Token rows in the shared memory of a CTA."""
        return self.tile_t // self.token_halves

    @property
    def weight_pieces(self) -> int:
        """Boxes that a weight tile is cut into: shares of a multicast, halves of a pair, up and gate."""
        parts = self.weight_halves * len(self.weight_peers(0))
        return max(parts, 2) if self.paired and not self.swap else parts

    @property
    def weight_copies(self) -> int:
        """Boxes of a K block that one CTA loads."""
        return self.weight_pieces // self.weight_halves // len(self.weight_peers(0))

    def weight_box(self, weight_tile: Any, piece: Any) -> Any:
        """Index of a box among an expert's boxes of the same height; integers or run-time values."""
        if self.paired and not self.swap:
            # Up rows first, then gate rows; both halves are cut into boxes of the same height.
            rows = self.tile_w // self.weight_pieces
            per_half = self.columns // rows
            return weight_tile * per_half + piece % per_half + piece // per_half * (self.n // 2 // rows)
        return weight_tile * self.weight_pieces + piece

    @property
    def token_pieces(self) -> int:
        """Boxes that a token tile is cut into."""
        return self.token_halves * len(self.token_peers(0))

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that arrive on a ``full`` barrier per stage."""
        return self.weight_rows * self.k_tile * (2 if self.pair else 1)

    @property
    def token_bytes(self) -> int:
        """Bytes of token rows that arrive on a ``full`` barrier per stage, 0 where cp.async brings them."""
        if self.gather and not self.gather4:
            return 0
        return self.token_rows * self.k_tile * (2 if self.pair else 1)

    @property
    def scale_bytes(self) -> int:
        """Bytes of token scales that a bulk copy brings per stage, 0 where cp.async does."""
        return 0 if self.gather else 4 * self.tile_t * self.k_per_stage

    @property
    def gather_rows(self) -> int:
        """Rows that one step of the TMA gather brings: their indices are in registers together."""
        return math.gcd(self.token_rows, 16)

    @property
    def gather_threads(self) -> int:
        if self.gather4 or self.zeroes or self.scaled or self.tile_t <= 16:
            return 32
        return 64

    # Barriers: arrivals that complete a phase.

    @property
    def full_arrivals(self) -> int:
        """The weight warp, and the row warp or every gathering thread; the scale warp of every CTA that a MMA reads."""
        scales = (2 if self.pair else 1) if self.scaled else 0
        return 1 + (self.gather_threads if self.gather and not self.gather4 else 1) + scales

    @property
    def scale_arrivals(self) -> int:
        """The row warp, or every gathering thread."""
        return self.gather_threads if self.gather else 1

    @property
    def empty_arrivals(self) -> int:
        """The commits of all MMA issuers that read it, and who reads the scales: promotion warps or the scale warp."""
        return len(self.readers(0)) + self.scale_readers

    @property
    def near_empty_arrivals(self) -> int:
        """The same in a cluster of ``least`` CTAs."""
        return len(self.near_readers(0)) + self.scale_readers

    @property
    def scale_readers(self) -> int:
        """Warps of a CTA that read the token scales of a stage."""
        return 1 if self.scaled else 4 * self.groups

    @property
    def drained_arrivals(self) -> int:
        """The promotion warps of every CTA that a pair's MMA writes accumulators of."""
        return 4 * self.groups * (2 if self.pair else 1)

    # Tensor memory and registers.

    @property
    def mma_shape(self) -> tuple[int, int]:
        """M and N of one instruction."""
        return 64 * self.groups * (2 if self.pair else 1), self.tile_t if self.swap else self.tile_w

    @property
    def n_step(self) -> int | None:
        """What N of an MMA is a multiple of; None where M is none that the hardware has."""
        return {64: 8, 128: 16, 256: 32}.get(self.mma_shape[0])

    @property
    def mmas(self) -> int:
        """MMAs along M that one K step of a tile takes."""
        return self.subs if self.swap else 1

    @property
    def acc_columns(self) -> int:
        """Tensor memory columns of one accumulator stage."""
        return self.mmas * self.mma_shape[1]

    @property
    def factor_columns(self) -> int:
        """Columns of tensor memory with the scales of a stage: four for 128 rows of M or N, M first; 0 for none.

        A column has four bytes, one for each K block: a stage has at most four.
        """
        return 4 * (self.mmas + -(-self.mma_shape[1] // 128)) if self.scaled else 0

    @property
    def factor_bytes(self) -> int:
        """Shared memory that they come from: 32 lanes of 4 bytes a column."""
        return 128 * self.factor_columns

    @property
    def tmem_columns(self) -> int:
        """Columns that a CTA allocates: sums, then the scales of every stage."""
        columns = self.acc_stages * self.acc_columns + self.stages * self.factor_columns
        return max(32, 1 << (columns - 1).bit_length())

    @property
    def width(self) -> int:
        """Columns of one accumulator in a tile of all its rows."""
        return self.tile_t if self.swap else self.sub_w

    @property
    def load_columns(self) -> int:
        """Columns of one accumulator that a warp promotes at a time."""
        return self.loaded(self.width)

    def loaded(self, width: int) -> int:
        """The same of accumulators of ``width`` columns: those of a tile with few rows have ``narrow``."""
        crowded = width * self.subs >= 256 and (self.swap or self.registers[1] < 224)
        return math.gcd(width, LOAD_COLUMNS // 2 if crowded else LOAD_COLUMNS)

    def scales_first(self, width: int) -> bool:
        """Whether a K block's token scales fit into registers before its accumulators are ready."""
        return not self.swap or width == self.loaded(width)

    @property
    def packed_fma(self) -> bool:
        return True

    def slab(self, warp: Any) -> Any:
        # A warp reaches the 32 lanes of its number modulo 4: the second warpgroup takes the upper 16 of each.
        return warp if self.groups == 1 else 2 * (warp % 4) + warp // 4

    @property
    def accumulator_registers(self) -> int:
        one = self.width // 2
        if self.scaled:
            return one * self.subs  # they are loaded at once, and need no scales
        scales = self.load_columns // 4 if self.swap else 2
        return one * self.subs + self.load_columns // 2 + scales

    @property
    def producer_registers(self) -> int:
        if self.gather and not self.gather4:
            # A thread holds an index per row that it copies.
            return 72 if self.tile_t * 8 // self.gather_threads > 8 else 56
        return 56 if self.gather or self.handover else 40

    @property
    def stage_bytes(self) -> int:
        scales = 4 * self.tile_t * self.k_per_stage + self.factor_bytes
        return (self.weight_rows + self.token_rows) * self.k_tile + scales

    @property
    def epilogue_bytes(self) -> int:
        return 2 * self.tile_t * self.tile_w if self.handover else super().epilogue_bytes

    @property
    def smem_bytes(self) -> int:
        # Rows of 256 columns leave a pair no other room than for its barriers.
        spare = HANDOVER_BARRIER_BYTES if self.handover else 2048
        return self.stages * self.stage_bytes + self.epilogue_bytes + spare

    def problem(self) -> str | None:
        for part in ("mma", "narrow", "cluster", "memory", "register"):
            why: str | None = getattr(self, f"{part}_problem")()
            if why is not None:
                return f"{self.role}: {why}"
        return None

    def mma_problem(self) -> str | None:
        """Why the tensor cores cannot take the tile, None if they can."""
        m, n = self.mma_shape
        step = self.n_step
        if step is None or self.pair != (m == 256):
            return f"an MMA has 64 or 128 rows, 256 in a pair of CTAs, not {m}"
        if self.scaled and m < 128:
            return f"a scaled MMA has 128 rows, 256 in a pair of CTAs, not {m}"
        if n % step or not step <= n <= 256:
            return f"N of an MMA with {m} rows goes from {step} to 256 in steps of {step}, {n} does not"
        if not self.swap and self.tile_t != 64 * self.groups:
            return f"with tokens as M a CTA has {64 * self.groups} token rows, not {self.tile_t}"
        if self.swap and self.tile_w % (64 * self.groups):
            return f"{self.tile_w} weight rows are not whole MMAs of {64 * self.groups}"
        if self.out == "act" and not self.swap and self.columns != BLOCK:
            return f"with tokens as M the fused requantisation wants tiles of 128 columns, not {self.columns}"
        if self.k // BLOCK % self.split_k or self.k_blocks % self.k_per_stage:
            return f"{self.k // BLOCK} K blocks cannot be cut into {self.split_k} parts of whole stages"
        return None

    def narrow_problem(self) -> str | None:
        """Why tiles with few rows cannot have an MMA of their own, None if they can."""
        if self.narrow and (self.n_step is None or self.narrow % self.n_step):
            return f"N of an MMA with {self.mma_shape[0]} rows comes in steps of {self.n_step}, {self.narrow} does not"
        return None

    def cluster_problem(self) -> str | None:
        """Why the CTAs do not form clusters that share their operands, None if they do."""
        if self.n % self.tile_w or (self.n // self.tile_w) % self.cluster_w:
            return f"{self.cluster_w} weight tiles of {self.tile_w} do not divide {self.n}"
        if self.cluster_w % self.amax_ctas:
            return (
                f"{self.amax_ctas} CTAs share a block of 128 columns, a cluster has {self.cluster_w} along the weights"
            )
        if self.pair and (self.cluster_w if self.swap else self.cluster_t) % 2:
            return "a pair of CTAs is a cluster of two along the M side"
        if self.ctas % self.cluster:
            return f"{self.ctas} CTAs are not whole clusters of {self.cluster}"
        if self.tile_w // self.weight_pieces < (16 if self.paired and self.swap else 8):
            return f"{self.weight_pieces} CTAs cannot share {self.tile_w} weight rows"
        if self.pair and self.gather and not self.gather4:
            return "cp.async completes on its own CTA's barrier, the MMA of a pair waits on the leader's"
        return None

    def memory_problem(self) -> str | None:
        """Why shared or tensor memory does not suffice, None if both do."""
        limit = min(SMEM_PER_CTA, SMEM_PER_SM // self.ctas_per_sm - SMEM_RESERVED)
        if self.smem_bytes > limit:
            return f"{self.stages} stages need {self.smem_bytes} bytes of shared memory, {limit} are there"
        if self.tmem_columns * self.ctas_per_sm > TMEM_COLUMNS:
            return f"{self.ctas_per_sm} CTAs want {self.tmem_columns} of {TMEM_COLUMNS} tensor memory columns each"
        return None

    def register_problem(self) -> str | None:
        """Why the promotion warps' registers do not suffice, None if they do."""
        if self.registers[1] - self.accumulator_registers < 40:
            return f"accumulators take {self.accumulator_registers} of {self.registers[1]} registers"
        return None
