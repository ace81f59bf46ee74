"""Routing of tokens to local experts: selection, counts, row offsets and the row map, in one kernel launch.

The row space. Every (token, local expert) pair gets a row. Rows of one expert are consecutive and ascend by token
index; the order is the same in every run. Expert ``e`` owns rows ``m_indptr[e] .. m_indptr[e] + counts[e]``, and its
segment is filled up to a multiple of ``row_align`` with marked rows:

* ``row_token[r]`` is the token index, or -1 in a filling row (gather with ``max(row_token, 0)`` or skip);
* ``row_weight[r]`` is the routing weight, 0 in a filling row;
* rows behind an expert's filled segment are never written.

``flat``: ``m_indptr[e+1] - m_indptr[e]`` is ``counts[e]`` rounded up to ``row_align``.
``batched``: ``m_indptr[e] = e * max_m``, ``max_m`` a multiple of ``row_align`` and at least the number of tokens.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Uint32, const_expr
from cutlass.memory import SmemAllocator

from .topk import WARP, ExpertChoice

CLUSTER = 8
"""CTAs of the small kernel: the largest portable cluster."""
SMALL_THREADS = 512
GRID_THREADS = 1024
GRID_CTAS = 128
"""Upper bound of CTAs of the large kernel: 4 loads per lane of a warp cover them, and all are resident on any Hopper
part (one per SM where there are that many SMs, else two)."""
MIN_CHUNK = 8
"""Tokens per CTA below which the large kernel uses fewer CTAs instead."""
SMALL_CHUNK = 32
GRID_CHUNK = 256


FIRST_CTA_STEP = 0x80000001
"""What CTA 0 adds to the grid barrier's counter, less the number of CTAs; every other CTA adds 1."""


def grid_shape(tokens, larger=max):
    """Tokens per CTA and CTAs of the large kernel; of plain integers, or of run-time ones with their ``max``."""
    chunk = larger((tokens + (GRID_CTAS - 1)) // GRID_CTAS, MIN_CHUNK)
    return chunk, (tokens + chunk - 1) // chunk


class Routing:
    """Expert selection (:class:`ExpertChoice`, a warp per token) and row map.

    Exchange of counts between CTAs, both in one launch of one kernel body:
        up to ``small_tokens``: one cluster of 8 CTAs, counts read through distributed shared memory;
        above: up to 128 CTAs, counts through ``scratch`` and a grid barrier (all CTAs are resident: one per SM at
        most).
    Each CTA holds a consecutive chunk of tokens and, per local expert, a bit per token of the chunk: the rank of a
    token inside its chunk is a popcount, so rows come out in token order without sorting.

    Shapes:
        logits: [T, E] float32 or bfloat16, row-major, 16-byte aligned.
        bias: [E] bfloat16 for ``deepseek``, None for ``renorm``.
        counts: [E_local] int32. m_indptr: [E_local + 1] int32.
        row_token: [P] int32. row_weight: [P] float32. P >= :meth:`row_capacity` (flat) or E_local * max_m (batched).
        token_row: [T, top_k] int32: row of the k-th choice (descending score), -1 if that expert is not local.
        scratch: [:attr:`scratch_ints`] int32, 16-byte aligned, may hold anything.
        barrier: [1] int32, ZEROED ONCE when the workspace is allocated; every run leaves it fit for the next one.

    All outputs may be poisoned beforehand. T may be 0 (counts and m_indptr are still written) up to :attr:`max_tokens`.

    Source: the add-to-top-bit grid barrier is the one of CUDA's cooperative groups (cooperative_groups/details/sync.h).
    """

    def __init__(
        self,
        num_experts: int,
        num_local_experts: int,
        top_k: int,
        method: str = "deepseek",
        n_group: int = 1,
        topk_group: int = 1,
        row_align: int = 1,
        batched: bool = False,
        use_pdl: bool = False,
        small_tokens: int = 128,
    ):
        if small_tokens > CLUSTER * SMALL_CHUNK:
            raise ValueError(f"small_tokens {small_tokens} exceeds {CLUSTER * SMALL_CHUNK}")
        self.choice = ExpertChoice(num_experts, top_k, method, n_group, topk_group)
        self.num_experts = num_experts
        self.num_local = num_local_experts
        self.top_k = top_k
        self.row_align = row_align
        self.batched = batched
        self.use_pdl = use_pdl
        self.small_tokens = small_tokens
        self.scratch_ints = num_local_experts * GRID_CTAS
        self.max_tokens = GRID_CTAS * GRID_CHUNK

    def row_capacity(self, tokens: int) -> int:
        """Rows that any routing of ``tokens`` can need in the flat layout, filling rows included."""
        pairs = tokens * min(self.top_k, self.num_local)
        return pairs + min(pairs, self.num_local) * (self.row_align - 1)

    @cute.jit
    def __call__(
        self,
        logits: cute.Tensor,
        bias: cute.Tensor | None,
        offset: Int32,
        scaling: Float32,
        max_m: Int32,
        counts: cute.Tensor,
        m_indptr: cute.Tensor,
        row_token: cute.Tensor,
        row_weight: cute.Tensor,
        token_row: cute.Tensor,
        scratch: cute.Tensor,
        barrier: cute.Tensor,
        zeroed: tuple[cute.Tensor, ...],
        stream,
    ):
        """Launch one kernel. ``offset`` is the first local expert; ``scaling`` multiplies ``deepseek`` weights;
        ``max_m`` is read in the batched layout only; the tensors ``zeroed`` are filled with zeros."""
        tokens = Int32(cute.size(logits, mode=[0]))
        outputs = (counts, m_indptr, row_token, row_weight, token_row)
        shared = (scratch, barrier, zeroed)
        if tokens <= self.small_tokens:
            chunk = (tokens + (CLUSTER - 1)) // CLUSTER
            self.kernel(logits, bias, offset, scaling, max_m, tokens, chunk, outputs, *shared, True).launch(
                grid=(CLUSTER, 1, 1),
                block=(SMALL_THREADS, 1, 1),
                cluster=(CLUSTER, 1, 1),
                stream=stream,
                use_pdl=self.use_pdl,
            )
        else:
            chunk, ctas = grid_shape(tokens, cutlass.max)
            self.kernel(logits, bias, offset, scaling, max_m, tokens, chunk, outputs, *shared, False).launch(
                grid=(ctas, 1, 1),
                block=(GRID_THREADS, 1, 1),
                stream=stream,
                use_pdl=self.use_pdl,
            )

    @cute.kernel
    def kernel(
        self,
        logits: cute.Tensor,
        bias: cute.Tensor | None,
        offset: Int32,
        scaling: Float32,
        max_m: Int32,
        tokens: Int32,
        chunk: Int32,
        outputs: tuple[cute.Tensor, cute.Tensor, cute.Tensor, cute.Tensor, cute.Tensor],
        scratch: cute.Tensor,
        barrier: cute.Tensor,
        zeroed: tuple[cute.Tensor, ...],
        clustered: cutlass.Constexpr[bool],
    ):
        threads = SMALL_THREADS if clustered else GRID_THREADS
        max_chunk = SMALL_CHUNK if clustered else GRID_CHUNK
        words = max_chunk // WARP
        counts, m_indptr, row_token, row_weight, token_row = outputs
        tid, _, _ = cute.arch.thread_idx()
        cta, _, _ = cute.arch.block_idx()
        num_ctas, _, _ = cute.arch.grid_dim()
        first = cta * chunk
        here = cutlass.max(cutlass.min(tokens - first, chunk), 0)

        smem = SmemAllocator()
        s_bits = smem.allocate_tensor(Int32, cute.make_layout((self.num_local, words), stride=(words, 1)), 16)
        s_local = smem.allocate_tensor(Int32, cute.make_layout(max_chunk * self.top_k), 16)
        s_weight = smem.allocate_tensor(Float32, cute.make_layout(max_chunk * self.top_k), 16)
        s_count = smem.allocate_tensor(Int32, cute.make_layout(self.num_local), 16)
        s_total = smem.allocate_tensor(Int32, cute.make_layout(self.num_local), 16)
        s_first = smem.allocate_tensor(Int32, cute.make_layout(self.num_local), 16)
        s_start = smem.allocate_tensor(Int32, cute.make_layout(self.num_local + 1), 16)

        for i in cutlass.range(tid, self.num_local * words, threads, unroll=1):
            s_bits[i // words, i % words] = Int32(0)
        cute.arch.sync_threads()
        if const_expr(self.use_pdl):
            cute.arch.griddepcontrol_launch_dependents()
            cute.arch.griddepcontrol_wait()

        self.choose_all(logits, bias, offset, scaling, first, here, s_bits, s_local, s_weight, threads)
        cute.arch.sync_threads()
        for e in cutlass.range(tid, self.num_local, threads, unroll=1):
            count = Int32(0)
            for w in cutlass.range_constexpr(words):
                count += Int32(cute.arch.popc(s_bits[e, w]))
            s_count[e] = count
            if const_expr(not clustered):
                scratch[e * GRID_CTAS + cta] = count
        if const_expr(clustered):
            self.exchange_cluster(cta, s_count, s_total, s_first, threads)
        else:
            self.exchange_grid(cta, num_ctas, scratch, barrier, s_total, s_first, threads)
        cute.arch.sync_threads()
        self.starts(s_total, s_start, max_m, threads)
        cute.arch.sync_threads()

        for i in cutlass.range(tid, here * self.top_k, threads, unroll=1):
            local = s_local[i]
            token = i // self.top_k
            row = Int32(-1)
            if local >= 0:
                below = Int32(cute.arch.popc(s_bits[local, token // WARP] & ((Int32(1) << (token % WARP)) - 1)))
                for w in cutlass.range(token // WARP, unroll=1):
                    below += Int32(cute.arch.popc(s_bits[local, w]))
                row = s_start[local] + s_first[local] + below
                row_token[row] = first + token
                row_weight[row] = s_weight[i]
            token_row[first + token, i % self.top_k] = row
        self.fill(cta, num_ctas, s_total, s_start, row_token, row_weight, threads)
        for n in cutlass.range_constexpr(len(zeroed)):
            for i in cutlass.range(cta * threads + tid, cute.size(zeroed[n]), num_ctas * threads, unroll=1):
                zeroed[n][i] = Int32(0)
        if cta == 0:
            for e in cutlass.range(tid, self.num_local + 1, threads, unroll=1):
                m_indptr[e] = s_start[e]
                if e < self.num_local:
                    counts[e] = s_total[e]
        if const_expr(clustered):
            # A CTA may not leave while another one still reads its counts.
            cute.arch.cluster_wait()

    @cute.jit
    def choose_all(
        self,
        logits: cute.Tensor,
        bias: cute.Tensor | None,
        offset: Int32,
        scaling: Float32,
        first: Int32,
        here: Int32,
        s_bits: cute.Tensor,
        s_local: cute.Tensor,
        s_weight: cute.Tensor,
        threads: cutlass.Constexpr[int],
    ):
        """Choices of this CTA's tokens into shared memory: local expert or -1, weight, and the token's bit."""
        lane = cute.arch.lane_idx()
        warp = cute.arch.warp_idx()
        warps = threads // WARP
        # The loads of the bias and of the first token are in flight together, and each later token's during the one
        # before.
        per_lane = self.choice.per_lane
        r_bias = cute.make_rmem_tensor(per_lane, cutlass.BFloat16)
        r_next = cute.make_rmem_tensor(per_lane, logits.element_type)
        r_score = cute.make_rmem_tensor(per_lane, Float32)
        my_logits = logits.iterator + (first * self.num_experts + lane * per_lane)
        if warp < here:
            self.choice.load_slice(my_logits + warp * self.num_experts, r_next)
            if const_expr(self.choice.deepseek):
                self.choice.load_slice(bias.iterator + lane * per_lane, r_bias)
        for i in cutlass.range(warp, here, warps, unroll=1):
            r_score.store(r_next.load().to(Float32))
            if i + warps < here:
                self.choice.load_slice(my_logits + (i + warps) * self.num_experts, r_next)
            expert, weight = self.choice.choose(logits, r_score, r_bias, scaling, first + i, lane)
            local = expert - offset
            if local < 0 or local >= self.num_local:
                local = Int32(-1)
            if lane < self.top_k:
                s_local[i * self.top_k + lane] = local
                s_weight[i * self.top_k + lane] = weight
                if local >= 0:
                    word = s_bits.iterator + (local * (cute.size(s_bits, mode=[1])) + i // WARP)
                    cute.arch.atomic_or(word, Int32(1) << (i % WARP), sem="relaxed", scope="cta")

    @cute.jit
    def exchange_cluster(self, cta: Int32, s_count, s_total, s_first, threads: cutlass.Constexpr[int]):
        """Totals and this CTA's first rank per expert, from the counts in the shared memory of all 8 CTAs."""
        tid, _, _ = cute.arch.thread_idx()
        cute.arch.cluster_arrive()
        cute.arch.cluster_wait()
        for e in cutlass.range(tid, self.num_local, threads, unroll=1):
            total = Int32(0)
            before = Int32(0)
            for rank in cutlass.range_constexpr(CLUSTER):
                count = load_remote(s_count.iterator + e, rank)
                total += count
                before += count if cta > rank else Int32(0)
            s_total[e] = total
            s_first[e] = before
        cute.arch.cluster_arrive()

    @cute.jit
    def exchange_grid(
        self, cta: Int32, num_ctas: Int32, scratch, barrier, s_total, s_first, threads: cutlass.Constexpr[int]
    ):
        """The same through global memory: a grid barrier, then a warp per expert, 4 CTAs' counts per lane."""
        tid, _, _ = cute.arch.thread_idx()
        cute.arch.sync_threads()
        if tid == 0:
            # The adds of all CTAs sum to 2^31: the top bit flips when the last one arrives, and the rest is as before.
            step = Uint32(1)
            if cta == 0:
                step = Uint32(FIRST_CTA_STEP) - Uint32(num_ctas)
            pointer = barrier.iterator
            cute.arch.fence_acq_rel_gpu()
            old = cute.arch.atomic_add(pointer, Int32(step), sem="acq_rel", scope="gpu")
            now = cute.arch.load(pointer, Int32, sem="acquire", scope="gpu")
            while (now ^ old) >= 0:
                now = cute.arch.load(pointer, Int32, sem="acquire", scope="gpu")
            cute.arch.fence_acq_rel_gpu()
        cute.arch.sync_threads()
        lane = cute.arch.lane_idx()
        for e in cutlass.range(cute.arch.warp_idx(), self.num_local, threads // WARP, unroll=2):
            total = Int32(0)
            before = Int32(0)
            for j in cutlass.range_constexpr(GRID_CTAS // WARP):
                other = j * WARP + lane
                count = Int32(0)
                if other < num_ctas:
                    count = cute.arch.load(scratch.iterator + (e * GRID_CTAS + other), Int32, cop="cg")
                total += count
                before += count if other < cta else Int32(0)
            total = cute.arch.warp_redux_sync(total, "add")
            before = cute.arch.warp_redux_sync(before, "add")
            if lane == 0:
                s_total[e] = total
                s_first[e] = before

    @cute.jit
    def starts(self, s_total, s_start, max_m: Int32, threads: cutlass.Constexpr[int]):
        """First row of every expert's segment, and the end of the last one."""
        tid, _, _ = cute.arch.thread_idx()
        if const_expr(self.batched):
            for e in cutlass.range(tid, self.num_local + 1, threads, unroll=1):
                s_start[e] = e * max_m
        else:
            per_lane = (self.num_local + WARP - 1) // WARP
            if tid < WARP:
                rows = cute.make_rmem_tensor(per_lane, Int32)
                mine = Int32(0)
                for j in cutlass.range_constexpr(per_lane):
                    e = tid * per_lane + j
                    rows[j] = Int32(0)
                    if e < self.num_local:
                        rows[j] = self.filled(s_total[e])
                    mine += rows[j]
                upto = mine
                for step in cutlass.range_constexpr(5):
                    other = cute.arch.shuffle_sync_up(upto, 1 << step, mask_and_clamp=0)
                    upto += other if tid >= (1 << step) else Int32(0)
                start = upto - mine
                for j in cutlass.range_constexpr(per_lane):
                    e = tid * per_lane + j
                    if e <= self.num_local:
                        s_start[e] = start
                    start += rows[j]
                if tid == WARP - 1:
                    s_start[self.num_local] = upto

    @cute.jit
    def fill(
        self, cta: Int32, num_ctas: Int32, s_total, s_start, row_token, row_weight, threads: cutlass.Constexpr[int]
    ):
        """Mark the rows between each expert's last token and the end of its segment; spread over all threads."""
        if const_expr(self.row_align > 1):
            tid, _, _ = cute.arch.thread_idx()
            items = self.num_local * self.row_align
            for i in cutlass.range(cta * threads + tid, items, num_ctas * threads, unroll=1):
                e = i // self.row_align
                r = s_total[e] + i % self.row_align
                if r < self.filled(s_total[e]):
                    row_token[s_start[e] + r] = Int32(-1)
                    row_weight[s_start[e] + r] = Float32(0.0)

    @cute.jit
    def filled(self, count: Int32):
        """``count`` rounded up to ``row_align``."""
        return (count + (self.row_align - 1)) // self.row_align * self.row_align


@cute.jit
def load_remote(pointer: cute.Pointer, rank: cutlass.Constexpr[int]):
    """The int32 at the same shared-memory address in another CTA of the cluster."""
    return cute.arch.inline_ptx(
        "{ .reg .b32 remote; mapa.shared::cluster.u32 remote, {$r0}, {$r1}; ld.shared::cluster.s32 {$w0}, [remote]; }",
        write_only_types=[Int32],
        read_only_args=[Int32(pointer.toint()), Int32(rank)],
    )
