"""Choice of a token's experts by one warp, scores in registers: DeepSeek-V3 selection or renormalised softmax top-k."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Uint32, const_expr

WARP = 32


class ExpertChoice:
    """Top-k of one token's scores; lane l of the warp holds the E / 32 consecutive experts from l * E / 32.

    ``deepseek``: s = sigmoid(logit); order by s + bias; with ``n_group`` > 1 only the ``topk_group`` groups with the
    largest sum of their two best survive; weight = s / sum of the chosen s * scaling.
    ``renorm``: order by logit; weight = softmax over the chosen logits; ``scaling`` is not read.
    Equal scores are taken in rising expert order, as torch.topk does on a GPU. Scores have the bits that torch
    computes, so the choice is the reference's unless scores are equal.

    Constraints: E is a multiple of 32; a group is a whole, power-of-two number of lanes' experts; top_k <= 32.

    Source: the semantics are those of flashinfer-trace's moe_fp8_block_scale definitions.
    """

    def __init__(self, num_experts: int, top_k: int, method: str, n_group: int, topk_group: int):
        if method not in ("deepseek", "renorm"):
            raise ValueError(f"routing method {method!r} is unknown; allowed are deepseek, renorm")
        if num_experts % WARP:
            raise ValueError(f"{num_experts} experts do not divide among the {WARP} lanes of a warp")
        per_lane = num_experts // WARP
        group_lanes = num_experts // n_group // per_lane
        if group_lanes * per_lane * n_group != num_experts or group_lanes & (group_lanes - 1):
            raise ValueError(f"{n_group} groups of {num_experts} experts are not whole powers of two of lanes")
        if not 0 < top_k <= WARP or topk_group > n_group:
            raise ValueError(f"top_k {top_k} or topk_group {topk_group} of {n_group} is out of range")
        self.num_experts = num_experts
        self.top_k = top_k
        self.deepseek = method == "deepseek"
        self.n_group = n_group
        self.topk_group = topk_group
        self.per_lane = per_lane
        self.group_lanes = group_lanes

    @cute.jit
    def choose(
        self,
        logits: cute.Tensor,
        r_score: cute.Tensor,
        r_bias: cute.Tensor,
        scaling: Float32,
        token: Int32,
        lane: Int32,
    ):
        """Lane k < top_k gets the k-th expert of the token and its weight. ``r_score`` holds the lane's logits."""
        for j in cutlass.range_constexpr(self.per_lane):
            if const_expr(self.deepseek):
                r_score[j] = sigmoid(r_score[j]) + Float32(r_bias[j])
            else:
                r_score[j] = r_score[j] + Float32(0.0)  # -0 and +0 are equal
        r_key = cute.make_rmem_tensor(self.per_lane, Uint32)
        for j in cutlass.range_constexpr(self.per_lane):
            r_key[j] = ordered(r_score[j])
        if const_expr(self.n_group > 1):
            kept = self.group_kept(r_score, lane)
            for j in cutlass.range_constexpr(self.per_lane):
                r_key[j] = r_key[j] if kept else Uint32(0)

        mine = Int32(0)
        # A loop, not unrolled: a cold launch waits for every line of code it fetches.
        for k in cutlass.range(self.top_k, unroll=1):
            best, where = self.best_of(r_key, 0, self.per_lane)
            top = cute.arch.warp_redux_sync(best, "umax")
            mine_if_top = Uint32(lane * self.per_lane + where) if best == top else Uint32(self.num_experts)
            chosen = Int32(cute.arch.warp_redux_sync(mine_if_top, "umin"))
            mine = chosen if lane == k else mine
            for j in cutlass.range_constexpr(self.per_lane):
                r_key[j] = Uint32(0) if chosen - lane * self.per_lane == j else r_key[j]

        x = Float32(logits[token, mine])
        part = Float32(0.0)
        if const_expr(self.deepseek):
            part = sigmoid(x) if lane < self.top_k else Float32(0.0)
        else:
            largest = cute.arch.shuffle_sync(x, 0)
            part = cute.math.exp(x - largest) if lane < self.top_k else Float32(0.0)
        total = part
        for step in cutlass.range_constexpr(5):
            total += cute.arch.shuffle_sync_bfly(total, 1 << step)
        weight = Float32(0.0)
        if const_expr(not self.deepseek):
            weight = part / total
        elif const_expr(self.n_group > 1):
            weight = part / (total + Float32(1e-20)) * scaling
        else:
            # The definitions without groups clamp the sum where the others add.
            weight = part / cute.arch.fmax(total, Float32(1e-20)) * scaling
        return mine, weight

    @cute.jit
    def best_of(self, r_key: cute.Tensor, start: cutlass.Constexpr[int], count: cutlass.Constexpr[int]):
        """Largest of ``count`` keys and its position, the first among equals; a tree, since latency counts."""
        key, where = r_key[start], Int32(start)
        if const_expr(count > 1):
            half = (count + 1) // 2
            key, where = self.best_of(r_key, start, half)
            other, there = self.best_of(r_key, start + half, count - half)
            later = other > key
            key = other if later else key
            where = there if later else where
        return key, where

    @cute.jit
    def group_kept(self, r_score: cute.Tensor, lane: Int32):
        """True in the lanes of the topk_group best groups; equal groups in rising order."""
        first = Float32(-Float32.inf)
        second = Float32(-Float32.inf)
        for j in cutlass.range_constexpr(self.per_lane):
            second = cute.arch.fmax(second, cute.arch.fmin(first, r_score[j]))
            first = cute.arch.fmax(first, r_score[j])
        for step in cutlass.range_constexpr(self.group_lanes.bit_length() - 1):
            other_first = cute.arch.shuffle_sync_bfly(first, 1 << step)
            other_second = cute.arch.shuffle_sync_bfly(second, 1 << step)
            second = cute.arch.fmax(cute.arch.fmin(first, other_first), cute.arch.fmax(second, other_second))
            first = cute.arch.fmax(first, other_first)
        score = first + second
        group = lane // self.group_lanes
        better = Int32(0)
        for g in cutlass.range_constexpr(self.n_group):
            other = cute.arch.shuffle_sync(score, g * self.group_lanes)
            better += Int32(1) if other > score or (other == score and group > g) else Int32(0)
        return better < self.topk_group

    @cute.jit
    def load_slice(self, pointer: cute.Pointer, out: cute.Tensor):
        """One lane's per_lane consecutive values into registers, with the widest aligned loads."""
        width = self.per_lane * (pointer.dtype.width // 8)
        align = min(16, width & -width)
        cute.autovec_copy(cute.make_tensor(pointer.align(align), cute.make_layout(self.per_lane)), out)


@cute.jit
def sigmoid(x: Float32):
    """1 / (1 + exp(-x)) with the accurate exponential and a rounded quotient: the bits of the reference."""
    return Float32(1.0) / (Float32(1.0) + cute.math.exp(-x))


@cute.jit
def ordered(x: Float32):
    """An unsigned integer that compares as ``x`` does; 0 is below every number."""
    bits = x.bitcast(Int32)
    return Uint32(bits ^ ((bits >> 31) | Int32(-2147483648)))
