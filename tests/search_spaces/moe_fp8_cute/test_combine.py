"""Finalize, zero, cast and permute: sizes, and what the compiler makes of them.

Their values are checked by emulation (test_emulated.py) and on a GPU within the whole pipeline.
"""

from __future__ import annotations

import tempfile

import pytest

cute = pytest.importorskip("cutlass.cute", reason="nvidia-cutlass-dsl is not installed")

from cutlass import BFloat16, Float8E4M3FN, Float32, Int32  # noqa: E402
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream  # noqa: E402

from search_spaces.moe_fp8_cute.solution.combine import VECTOR, WARP, Cast, Finalize, Zero  # noqa: E402
from search_spaces.moe_fp8_cute.solution.permute import Permute  # noqa: E402


def tensor(dtype, *shape, align=16):
    order = tuple(reversed(range(len(shape))))
    return make_fake_compact_tensor(dtype, shape, stride_order=order, assumed_align=align)


def ptx_of(kernel, *arguments) -> str:
    options = "--enable-tvm-ffi --gpu-arch sm_90a --keep-ptx --keep-cubin --dump-dir "
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    with tempfile.TemporaryDirectory() as folder:
        return cute.compile(kernel, *arguments, stream, options=options + folder).artifacts.PTX


def finalize_ptx(hidden: int, top_k: int, dtype=BFloat16, **choices) -> str:
    tokens, rows = cute.sym_int(), cute.sym_int()
    splits = choices.get("splits", 1)
    y = tensor(dtype, *((splits,) if splits > 1 else ()), rows, hidden)
    return ptx_of(
        Finalize(hidden, top_k, **choices),
        *(y, tensor(Int32, tokens, top_k, align=4), tensor(Float32, rows, align=4), tensor(BFloat16, tokens, hidden)),
    )


@pytest.mark.parametrize(
    ("hidden", "top_k", "dtype", "choices"),
    [
        (7168, 8, BFloat16, {"use_pdl": True}),
        (2048, 10, Float32, {"splits": 4}),
        (4096, 8, Float32, {"weighted": False}),
    ],
)
def test_finalize_loads_and_stores_16_bytes(hidden, top_k, dtype, choices):
    ptx = finalize_ptx(hidden, top_k, dtype, **choices)
    assert ptx.count(".entry") == 2  # few tokens, many tokens
    assert ".local" not in ptx
    assert "ld.global.v4.b32" in ptx
    assert "st.global.v4.b32" in ptx
    assert ptx.count("griddepcontrol.wait") == (2 if choices.get("use_pdl") else 0)


def test_finalize_has_one_form_where_all_experts_are_local():
    assert finalize_ptx(2048, 10, all_local=True).count(".entry") == 1


def test_finalize_reads_no_weights_where_gemm_2_has_multiplied():
    """A weight load is the only 4-byte float load of the kernel."""
    weighted, plain = finalize_ptx(4096, 8), finalize_ptx(4096, 8, weighted=False)
    assert len([line for line in plain.splitlines() if "ld.global.b32" in line]) < len(
        [line for line in weighted.splitlines() if "ld.global.b32" in line]
    )


@pytest.mark.parametrize("hidden", [8, 256, 2048, 4096, 7168, 32768])
def test_a_cta_of_finalize_owns_the_whole_row(hidden):
    finalize = Finalize(hidden, 8)
    assert finalize.deep_threads % WARP == 0
    assert finalize.deep_threads <= 1024
    assert finalize.deep_threads * finalize.pieces * VECTOR >= hidden
    assert finalize.deep_threads * finalize.pieces * VECTOR < hidden + finalize.pieces * WARP * VECTOR


@pytest.mark.parametrize(("make", "text"), [(lambda: Finalize(7170, 8), "7170"), (lambda: Finalize(40960, 8), "40960"),
                                            (lambda: Permute(7100, 8), "7100")])  # fmt: skip
def test_hidden_sizes_that_do_not_fit_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("dtype", [Float32, BFloat16])
def test_zero_writes_vectors(dtype):
    ptx = ptx_of(Zero(7168, use_pdl=True), tensor(dtype, cute.sym_int(), 7168))
    assert "st.global.v4.b32" in ptx
    assert "griddepcontrol.wait" in ptx


def test_cast_rounds_to_nearest_in_pairs():
    tokens = cute.sym_int()
    ptx = ptx_of(Cast(7168), tensor(Float32, tokens, 7168), tensor(BFloat16, tokens, 7168))
    assert "cvt.rn.bf16x2.f32" in ptx
    assert "ld.global.v4" in ptx


def test_permute_addresses_rows_in_64_bits():
    """The batched layout has up to 451,584 rows of 7,168 bytes, more than 2^31."""
    tokens, rows = cute.sym_int(), cute.sym_int()
    ptx = ptx_of(
        Permute(7168, 8),
        *(tensor(Float8E4M3FN, tokens, 7168), tensor(Float32, 56, tokens, align=4), tensor(Int32, tokens, 8, align=4)),
        *(None, None, tensor(Float8E4M3FN, rows, 7168), tensor(Float32, 56, rows, align=4)),
    )
    assert "mad.wide.s32" in ptx or "mul.wide.s32" in ptx or "mul.lo.s64" in ptx
    assert ".local" not in ptx
    assert "st.global.v4.b32" in ptx
