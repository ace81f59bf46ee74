"""The plan of one grouped GEMM: sizes, threads, registers and shared memory, in plain Python.

Everything that a build must know before it compiles is decided here, so the search space's constraints, the kernels and
the static figures cannot disagree. No CuTe import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SMEM_PER_SM = 233472
"""Bytes of shared memory of a Hopper SM."""
SMEM_PER_CTA = 232448
"""The largest dynamic allocation of one CTA on Hopper (227 KB)."""
SMEM_RESERVED = 1024
"""Bytes that the system takes per resident CTA."""
REGISTERS_PER_SM = 65536
BLOCK = 128
"""Edge of a weight scale's block, and the K extent of a pipeline stage."""
UNBOUNDED = 2**31 - 1
"""Rows that no expert has more of; counts are int32."""
SWAP_PITCH = 48
"""Bytes between the 16 columns of two tokens in the buffer in which a warp transposes them; a multiple of 16."""


@dataclass(frozen=True)
class GemmPlan:
    """One grouped GEMM ``out[row, :] = x[row, :] @ w[expert(row)].T`` with block scales.

    A field that has the name of a parameter of the space, less ``_1``, ``_2`` or ``many_``, holds its value.

    Args:
        role: ``gate_up`` (first GEMM, SwiGLU follows) or ``down``.
        experts: Local experts.
        n: Weight rows per expert (``2 * intermediate`` or ``hidden``).
        k: Reduction extent.
        swap: Weights are the M side of the MMA and tokens its N side.
        tile_t: Rows (tokens) of a CTA tile.
        tile_w: Weight rows of a CTA tile; in ``gate_up`` half of them are up rows, half gate rows.
        groups: Consumer warpgroups.
        stages: Pipeline stages of 128 along K.
        out: What the epilogue writes. First GEMM: ``act`` (requant fused: SwiGLU and requantisation) or ``partial``
            (float32 sums of each K split). Second GEMM, the name of the combine: ``finalize`` (bfloat16 row per token
            and expert, for the finalize kernel), ``atomic_f32`` or ``atomic_bf16`` (weighted sum into the token's row).
        gather: Token rows are gathered by index with cp.async; otherwise rows are contiguous and come by TMA.
        copies: GEMM 1: the launch copies the token rows of its own tiles into row space itself (row_copy.py).
        clear: How GEMM 1 clears the output where GEMM 2 adds to it: ``ahead``, by a warp of its own as fast as it can,
            or ``along``, some of it with every K block.
        overlap: Two sets of temporary accumulators, so that promotion runs under the next K block's MMAs.
        alternate: The two consumer warpgroups take turns on the tensor cores instead of running freely.
        ctas_per_sm: CTAs per SM that the plan must leave room for.
        ctas: Persistent CTAs.
        split_k: Parts that K is cut into; each is a tile of its own.
        multicast: What two CTAs of a cluster share by TMA multicast: ``none``; ``tokens``: neighbours along the weights
            share a token tile; ``weights``: neighbours along the tokens share a weight tile, where an expert has pairs.
        order: Which tile index runs fastest inside an expert: ``weights`` or ``tokens``; ``mixed`` is ``tokens`` with
            experts of a single token tile spread among the others.
        pdl: Launched with programmatic dependent launch.
        early_weights: The weight producer starts before the previous kernel has ended; weights do not depend on it.
        above: Experts with more rows than this are served.
        upto: Experts with at most this many rows are served; 0 for no bound.
        crowded: Where no expert has more rows than this, it takes the place of ``above`` and ``upto``, so that the
            launches for few rows serve all; 0 for never.
        crowded_total: The same where the experts with more rows than ``crowded`` have together at most this many.
        chained: Not the first of the launches that share a GEMM's experts. It reads nothing of the others and starts
            beside the one before it, but ends after it, so that waiting for the last waits for all.
        narrow: Swapped: a token tile with at most this many rows is multiplied with an N of the same size; 0 for never.
        narrow_tiles: Where all token tiles together are at most so many of ``narrow`` rows, they are that small, so
            that more SMs have one; 0 for never.
        small_rows: GEMM 1: token rows of a tile of the launch that serves the experts above where they are few tiles;
            0 where no launch does.
        small_tiles: The most token tiles that launch serves, of all its experts together.
        small: This plan is of that launch.
        feed: How GEMM 2 gets what GEMM 1 makes: at the end of its ``grid``, or its ``tiles`` one by one (feed.py).
        finished_tiles: GEMM 2 fed by tiles: CTA tiles that GEMM 1 has of each token tile.
        clearing_ctas: GEMM 2 fed by tiles: CTAs of the launch of GEMM 1 that clears the output, each a part of it.
        power_of_two: GEMM 1: scales of the requantised rows are powers of two, as a GEMM 2 with scaled MMAs needs them.
    """

    role: str
    experts: int
    n: int
    k: int
    swap: bool
    tile_t: int
    tile_w: int
    groups: int
    stages: int
    out: str
    gather: bool = False
    copies: bool = False
    clear: str = "ahead"
    overlap: bool = True
    alternate: bool = False
    ctas_per_sm: int = 1
    ctas: int = 132
    split_k: int = 1
    multicast: str = "none"
    order: str = "weights"
    pdl: bool = True
    early_weights: bool = False
    above: int = 0
    upto: int = 0
    crowded: int = 0
    crowded_total: int = 0
    chained: bool = False
    narrow: int = 0
    narrow_tiles: int = 0
    small_rows: int = 0
    small_tiles: int = 0
    small: bool = False
    feed: str = "grid"
    finished_tiles: int = 0
    clearing_ctas: int = 0
    power_of_two: bool = False

    @property
    def by_tiles(self) -> bool:
        """Whether GEMM 1 hands its tiles over one by one."""
        return self.feed == "tiles"

    @property
    def fed(self) -> bool:
        """Whether this kernel runs beside the one whose tiles it reads, and takes its own from a queue."""
        return self.by_tiles and not self.paired

    @property
    def form(self) -> int:
        """The bit of the launches that share a GEMM's experts: 1 few rows, 2 many rows, 4 many rows in few tiles."""
        return 1 if self.upto else 4 if self.small else 2

    @property
    def leaves(self) -> bool:
        """Whether a CTA can know at its start that the launch has no tile: not where routing may still be running."""
        return self.chained or (self.upto > 0 and not self.paired)

    @property
    def waits(self) -> bool:
        """Whether this kernel must wait for the previous one before it reads what any kernel wrote."""
        return self.pdl and not self.chained and not self.fed

    @property
    def paired(self) -> bool:
        """Whether a tile holds up and gate rows of the same columns."""
        return self.role == "gate_up"

    @property
    def cta_m(self) -> int:
        """M extent that the consumer warpgroups of a CTA cover with one MMA each."""
        return 64 * self.groups

    @property
    def sub_w(self) -> int:
        """Weight rows of one accumulator: a slice of M (swap) or of N."""
        return self.cta_m if self.swap else min(self.tile_w, BLOCK)

    @property
    def weight_subs(self) -> int:
        """Accumulators along the weights per consumer warpgroup."""
        return self.tile_w // self.sub_w

    @property
    def token_subs(self) -> int:
        """Accumulators along the tokens per consumer warpgroup: 64 rows each, those of the warpgroups alternate."""
        return 1 if self.swap else self.tile_t // self.cta_m

    @property
    def box_t(self) -> int:
        """Token rows of one TMA box: those of one accumulator along the tokens, of all warpgroups."""
        return self.tile_t // self.token_subs

    @property
    def subs(self) -> int:
        """Accumulators per consumer warpgroup; the one at ``(t, s)`` has the index ``t * weight_subs + s``."""
        return self.token_subs * self.weight_subs

    @property
    def joined(self) -> bool:
        """Whether one accumulator holds up and gate side by side (tokens as M, narrow weight tile)."""
        return self.paired and not self.swap and self.weight_subs == 1

    @property
    def interleave(self) -> int:
        """Rows of one half before a row of the other half follows in shared memory (``gate_up``)."""
        return 8 if self.swap else self.tile_w // 2

    @property
    def scale_rows(self) -> int:
        """Distinct weight scales per K block of a tile."""
        return 2 if self.paired else max(1, self.tile_w // BLOCK)

    @property
    def columns(self) -> int:
        """Output columns of a tile."""
        return self.tile_w // 2 if self.paired else self.tile_w

    @property
    def k_blocks(self) -> int:
        """K blocks of one tile."""
        return self.k // BLOCK // self.split_k

    @property
    def multicast_ctas(self) -> int:
        """CTAs that a shared tile is delivered to."""
        return 1 if self.multicast == "none" else 2

    @property
    def cluster(self) -> int:
        """CTAs per cluster: those that share an amax block or a token tile."""
        return max(self.amax_ctas, self.multicast_ctas)

    @property
    def amax_ctas(self) -> int:
        """CTAs, neighbours along the weights, whose columns lie in one block of requantisation."""
        return max(1, BLOCK // self.columns) if self.out == "act" else 1

    @property
    def cluster_w(self) -> int:
        """Weight tiles that a cluster covers."""
        return self.cluster

    @property
    def cluster_t(self) -> int:
        """Token tiles that a cluster covers."""
        return 1

    @property
    def weight_tiles(self) -> int:
        """Tiles along the weights per expert."""
        return self.n // self.tile_w

    @property
    def gather_threads(self) -> int:
        """Threads that copy token rows with cp.async."""
        return 32 if self.tile_t <= 16 else 64

    @property
    def threads(self) -> int:
        """Threads of a CTA: one producer warpgroup and the consumers."""
        return 128 * (1 + self.groups)

    @property
    def packed_fma(self) -> bool:
        """Whether the GPU multiplies and adds two float32 in one instruction."""
        return False

    def slab(self, warp: Any) -> Any:
        """Which 16 rows of the accumulator a consumer warp holds; an integer or a run-time value."""
        return warp

    @property
    def accumulator_registers(self) -> int:
        """Float32 registers per consumer thread that accumulators, temporaries and token scales take."""
        one = 64 * (self.tile_t if self.swap else self.sub_w) // 128
        temporaries = one * (2 * self.subs if self.overlap else 1)
        token_scales = self.tile_t // 4 if self.swap else 2 * self.token_subs
        return one * self.subs + temporaries + token_scales * (2 if self.overlap else 1)

    @property
    def producer_registers(self) -> int:
        """Registers per producer thread after the split."""
        return 56 if self.copies or (self.gather and self.tile_t > 64) else 40

    @property
    def registers(self) -> tuple[int, int]:
        """Registers per producer and per consumer thread after the split; equal when there is no split."""
        share = REGISTERS_PER_SM // self.ctas_per_sm // self.threads // 8 * 8
        if share >= 255:
            return 248, 248
        low = self.producer_registers
        # What the consumers gain must come from the producers: a CTA's pool is what it was launched with.
        high = (share * self.threads - 128 * low) // (128 * self.groups) // 8 * 8
        return low, min(240, high)

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one stage: weights, token rows, token scales."""
        return (self.tile_w + self.tile_t) * BLOCK + 4 * self.tile_t

    @property
    def epilogue_bytes(self) -> int:
        """Shared memory of the epilogue: amax exchange and the transposition buffer."""
        if self.swap:
            if self.out in ("finalize", "atomic_bf16"):
                return 4 * self.groups * self.tile_t * SWAP_PITCH
            if self.out != "act":
                return 0
            warps = 4 * self.groups * self.amax_ctas
            return 2 * warps * self.tile_t * 4 + self.tile_t * (self.columns + 16)
        if self.out in ("partial", "atomic_f32"):
            return 0
        exchange = 2 * self.amax_ctas * self.tile_t * 4 if self.joined else 0
        return 4 * self.groups * 16 * 144 + exchange

    @property
    def smem_bytes(self) -> int:
        """Dynamic shared memory of a CTA, alignment and barriers included."""
        return self.stages * self.stage_bytes + self.epilogue_bytes + 2048

    def launch_problem(self, registers: int) -> str | None:
        """Why a kernel compiled to ``registers`` per thread would hang, None if it would not."""
        low, high = self.registers
        wanted = 128 * (low + self.groups * high)
        if low == high or wanted <= registers * self.threads:
            return None
        return f"{self.role}: the warpgroups want {wanted} registers, a launch brings {registers * self.threads}"

    def problem(self) -> str | None:
        """Why the plan cannot be built, None if it can."""
        limit = min(SMEM_PER_CTA, SMEM_PER_SM // self.ctas_per_sm - SMEM_RESERVED)
        if self.smem_bytes > limit:
            return f"{self.role}: {self.stages} stages need {self.smem_bytes} bytes of shared memory, {limit} are there"
        spare = self.registers[1] - self.accumulator_registers
        if spare < 24:
            return f"{self.role}: accumulators take {self.accumulator_registers} of {self.registers[1]} registers"
        if self.multicast == "weights" and self.out == "act" and self.columns < BLOCK:
            return f"{self.role}: a cluster exchanges maxima along the weights or shares weights, not both"
        if self.gather and self.tile_t > 128:
            return f"{self.role}: {self.tile_t} row indices do not fit into the registers of the gathering warps"
        # Clusters of 4 do not cover all SMs of a GPC: an H200 holds fewer than 32 of them (2026-11-23: grids of 132 and
        # of 128 CTAs took about twice the time), and a cluster that has to wait doubles a persistent grid's time.
        if self.ctas % self.cluster or (self.cluster > 2 and self.ctas > 120 * self.ctas_per_sm):
            return f"{self.role}: {self.ctas} CTAs are not whole resident clusters of {self.cluster}"
        if self.n % self.tile_w or (self.paired and (self.n // 2) % self.columns):
            return f"{self.role}: weight tile {self.tile_w} does not divide {self.n}"
        if self.weight_tiles % self.cluster:
            return f"{self.role}: cluster of {self.cluster} does not divide {self.weight_tiles} weight tiles"
        if (self.k // BLOCK) % self.split_k or (self.overlap and self.k_blocks % 2):
            return f"{self.role}: {self.k // BLOCK} K blocks cannot be cut into {self.split_k} parts"
        return None
