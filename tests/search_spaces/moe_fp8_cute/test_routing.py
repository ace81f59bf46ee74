"""Routing: sizes that it accepts, room that it asks for, what the compiler makes of it, and its integer arithmetic.

The kernel itself runs in the emulator (test_emulated.py) and on a GPU within the whole pipeline.
"""

from __future__ import annotations

import re
import tempfile

import numpy as np
import pytest

cute = pytest.importorskip("cutlass.cute", reason="nvidia-cutlass-dsl is not installed")

from cutlass import BFloat16, Float32, Int32  # noqa: E402
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream  # noqa: E402

from search_spaces.moe_fp8_cute.solution import routing as module  # noqa: E402
from search_spaces.moe_fp8_cute.solution.routing import Routing  # noqa: E402
from search_spaces.moe_fp8_cute.solution.workspace import MAX_TOKENS  # noqa: E402

DEEPSEEK_V3 = {"num_experts": 256, "num_local_experts": 32, "top_k": 8, "n_group": 8, "topk_group": 4}
KIMI = {"num_experts": 384, "num_local_experts": 384, "top_k": 8}
QWEN = {"num_experts": 128, "num_local_experts": 128, "top_k": 10, "method": "renorm"}
SMEM_WITHOUT_OPT_IN = 48 * 1024


class Alone:
    """The routing kernel by itself, with nothing else to fill with zeros."""

    def __init__(self, routing: Routing):
        self.routing = routing

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
        stream,
    ):
        rows = (row_token, row_weight, token_row)
        self.routing(logits, bias, offset, scaling, max_m, counts, m_indptr, *rows, scratch, barrier, (), stream)


def compiled(routing: Routing) -> str:
    """PTX for sm_90a from stand-in tensors."""

    def tensor(dtype, *shape, align=4):
        order = tuple(reversed(range(len(shape))))
        return make_fake_compact_tensor(dtype, shape, stride_order=order, assumed_align=align)

    tokens, rows = cute.sym_int(), cute.sym_int()
    local, deepseek = routing.num_local, routing.choice.deepseek
    arguments = [
        tensor(Float32 if deepseek else BFloat16, tokens, routing.num_experts, align=16),
        tensor(BFloat16, routing.num_experts, align=16) if deepseek else None,
        *(Int32(0), Float32(1.0), Int32(0), tensor(Int32, local), tensor(Int32, local + 1)),
        *(tensor(Int32, rows), tensor(Float32, rows), tensor(Int32, tokens, routing.top_k)),
        *(tensor(Int32, routing.scratch_ints, align=16), tensor(Int32, 1)),
        make_fake_stream(use_tvm_ffi_env_stream=True),
    ]
    options = "--enable-tvm-ffi --gpu-arch sm_90a --keep-ptx --keep-cubin --dump-dir "
    with tempfile.TemporaryDirectory() as folder:
        return cute.compile(Alone(routing), *arguments, options=options + folder).artifacts.PTX


@pytest.mark.parametrize("sizes", [DEEPSEEK_V3, KIMI, QWEN], ids=["ng8", "e384", "renorm"])
def test_compiles_for_hopper_without_local_memory(sizes):
    ptx = compiled(Routing(**sizes, row_align=16, use_pdl=True))
    assert ptx.count(".entry") == 2  # the cluster form and the grid form
    assert ".local" not in ptx  # nothing indexed at run time, nothing spilled by the front end
    assert ptx.count("griddepcontrol.wait") == 2
    assert "barrier.cluster.arrive" in ptx
    assert "atom.global.acq_rel.add" in ptx
    assert "ld.acquire.gpu" in ptx
    assert "ld.global.v4" in ptx or "ld.global.v2" in ptx  # scores come in vectors


def test_exponential_is_the_accurate_one():
    """The fast form multiplies by log2(e) once; the reference's bits need the accurate one's two-part reduction."""
    ptx = compiled(Routing(**DEEPSEEK_V3))
    assert re.search(r"fma\.rn\.f32 .*0fBFB8AA3B", ptx)
    assert re.search(r"fma\.rn\.f32 .*0fB2A57060", ptx)
    assert "rcp.rn.f32" in ptx
    assert "rcp.approx" not in ptx


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"method": "sinkhorn"}, "sinkhorn"),
        ({"num_experts": 250}, "250 experts"),
        ({"n_group": 3}, "3 groups"),
        ({"top_k": 33}, "top_k 33"),
        ({"topk_group": 9}, "topk_group 9"),
        ({"small_tokens": 257}, "small_tokens 257"),
    ],
)
def test_sizes_that_the_kernel_cannot_do_are_refused(changed, text):
    with pytest.raises(ValueError, match=text):
        Routing(**{**DEEPSEEK_V3, **changed})


@pytest.mark.parametrize("align", [1, 16, 128])
@pytest.mark.parametrize("tokens", [0, 1, 3, 40, 500])
def test_row_capacity_holds_the_worst_routing(tokens, align):
    """Every token on the same experts, every token on its own, and everything between."""
    routing = Routing(**DEEPSEEK_V3, row_align=align)
    rng = np.random.default_rng(tokens)
    for spread in (8, 9, 16, 32):
        chosen = [rng.choice(spread, 8, replace=False) for _ in range(tokens)]
        counts = np.bincount(np.concatenate(chosen) if chosen else [], minlength=32).astype(int)
        filled = -(-counts // align) * align
        assert filled.sum() <= routing.row_capacity(tokens)


@pytest.mark.parametrize("ctas", [1, 2, 113, 127, 128])
def test_grid_barrier_leaves_its_counter_fit_for_any_next_grid(ctas):
    """The adds of a run sum to 2^31: the top bit flips exactly when the last CTA arrives, the rest is unchanged."""
    counter = 0
    for run in range(3):
        before = counter
        for cta in range(ctas):
            counter = (counter + ((module.FIRST_CTA_STEP - ctas) if cta == 0 else 1)) % 2**32
            arrived_all = cta == ctas - 1
            assert bool((counter ^ before) >> 31) == arrived_all, (run, cta)
        assert counter & 0x7FFFFFFF == 0


def test_chunks_cover_every_token_once_within_the_bitmaps():
    """What __call__ computes for the grid, for every size it accepts."""
    routing = Routing(**DEEPSEEK_V3)
    assert routing.max_tokens == MAX_TOKENS
    for tokens in range(routing.small_tokens + 1, routing.max_tokens + 1, 7):
        chunk, ctas = module.grid_shape(tokens)
        assert ctas <= module.GRID_CTAS
        assert chunk <= module.GRID_CHUNK
        assert (ctas - 1) * chunk < tokens <= ctas * chunk
    assert -(-routing.small_tokens // module.CLUSTER) <= module.SMALL_CHUNK


def test_shared_memory_needs_no_opt_in():
    """The launch sets no attribute for the static buffers; the largest definition must stay below the default limit."""
    for sizes in (DEEPSEEK_V3, KIMI, QWEN):
        local, words = sizes["num_local_experts"], module.GRID_CHUNK // 32
        buffers = local * words + 2 * module.GRID_CHUNK * sizes["top_k"] + 4 * local + 1
        assert 4 * buffers + 7 * 16 <= SMEM_WITHOUT_OPT_IN
