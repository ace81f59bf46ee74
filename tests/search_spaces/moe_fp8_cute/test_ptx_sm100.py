"""What the compiler made of a few Blackwell GEMMs: barriers, copies, MMAs and tensor memory as the plans state them."""

import re
from collections import Counter

import pytest

from search_spaces.moe_fp8_cute.solution.plans import plans
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.moe_fp8_cute.space_sm100 import DEFAULT, PAIRS
from tests.search_spaces.moe_fp8_cute.test_space import SIZES, made_up

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

SWAPPED = {"swap_1": True, "tile_t_1": 64, "tile_w_1": 128, "mma_m_1": 256, "cluster_w_1": 2, "cluster_t_1": 1}
CASES = {
    "default": ({}, 0),
    "pair, gathers by TMA, K tile 256": ({**SWAPPED, "k_tile_1": 256}, 0),
    "pairs in a 2 x 4 cluster, multicast": ({"mma_m_2": 256, "cluster_w_2": 4, "cluster_t_2": 2, "sms": 144}, 1),
    "rows handed over": ({**PAIRS, "handover": True, "combine": "atomic_bf16"}, 1),
    "64 rows, cp.async, a second N": (
        {**SWAPPED, "mma_m_1": 64, "tile_t_1": 16, "gather": "fused", "acc_stages_1": 4, "narrow": 8},
        0,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def compiled(request, tmp_path_factory):
    """(plan, PTX, spilled bytes) of one GEMM."""
    change, which = CASES[request.param]
    space = FAMILY.space(made_up(), "sm_100a")
    config = space.check({**DEFAULT, **change})
    assert space.violation(config) is None
    plan = plans(config, SIZES)[which]
    return plan, *compile_gemm(plan, tmp_path_factory.mktemp("ptx"))


def compile_gemm(plan, folder):
    """PTX of the kernel and the bytes it spills."""
    import cutlass.cute as cute
    from cutlass import BFloat16, Float8E4M3FN, Float32, Int32
    from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

    from search_spaces.moe_fp8_cute.solution.gemm_sm100 import GroupedGemmSm100
    from search_spaces.moe_fp8_cute.solution.operands import Operands

    def tensor(dtype, *shape, align=128):
        order = tuple(reversed(range(len(shape))))
        return make_fake_compact_tensor(dtype, shape, stride_order=order, assumed_align=align)

    rows, tokens = cute.sym_int(), cute.sym_int()
    source = tokens if plan.gather else rows
    act = plan.out == "act"
    weights = tensor(Float8E4M3FN, plan.experts, plan.n, plan.k)
    operands = Operands(
        x=tensor(Float8E4M3FN, source, plan.k),
        xs=tensor(Float32, plan.k // 128, source, align=4),
        ws=tensor(Float32, plan.experts, plan.n // 128, plan.k // 128, align=4),
        row_token=tensor(Int32, rows),
        counts=tensor(Int32, plan.experts),
        m_indptr=tensor(Int32, plan.experts + 1),
        out=tensor(Float8E4M3FN, rows, plan.n // 2) if act else tensor(BFloat16, rows, plan.n),
        out_scale=tensor(Float32, plan.n // 256, rows) if act else None,
        row_weight=None if act else tensor(Float32, rows),
        zeroed=None,
    )
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    options = f"--enable-tvm-ffi --gpu-arch sm_100a --keep-ptx --dump-dir {folder}"
    options += f" --ptxas-options -v remarks{{ptx}} --remark-output {folder}/remarks.yaml"
    done = cute.compile(GroupedGemmSm100(plan, "gemm"), weights, operands, stream, options=options)
    spills = re.search(r"(\d+) bytes spill stores", (folder / "remarks.yaml").read_text())
    return done.artifacts.PTX, int(spills[1])


def constants(ptx: str) -> dict[str, int]:
    """Registers that hold a constant."""
    return {m[1]: int(m[2]) for m in re.finditer(r"mov\.b\d+\s+(%r\d+), (-?\d+);", ptx)}


def values(ptx: str, instruction: str) -> list[int]:
    """The last operand of every such instruction, where it is a constant."""
    known = constants(ptx)
    operands = re.findall(instruction + r"[^;]*?(%r\d+|-?\d+);", ptx)
    return [known[o] if o.startswith("%") else int(o) for o in operands]


def test_barriers_expect_the_arrivals_and_bytes_of_the_plan(compiled):
    plan, ptx, _ = compiled
    rings = plan.stages * [plan.full_arrivals, plan.empty_arrivals, plan.scale_arrivals]
    accumulators = plan.acc_stages * [1, plan.drained_arrivals]
    epilogue = 2 * [1] if plan.out == "act" and plan.swap else [4 * plan.groups, 1] if plan.handover else []
    assert values(ptx, r"mbarrier\.init\.shared\.b64") == rings + accumulators + epilogue
    promised = {plan.weight_bytes, plan.token_bytes, plan.scale_bytes} - {0}
    if plan.amax_ctas > 1:
        promised.add(4 * plan.tile_t * 4 * plan.groups * plan.amax_ctas)
        if plan.narrow:
            promised.add(4 * plan.narrow * 4 * plan.groups * plan.amax_ctas)
    assert set(values(ptx, r"mbarrier\.arrive\.expect_tx\.shared\.b64")) == promised


def test_tensor_memory_is_allocated_once_and_freed_on_every_path(compiled):
    plan, ptx, _ = compiled
    assert values(ptx, r"tcgen05\.alloc\.") == [plan.tmem_columns]
    assert values(ptx, r"tcgen05\.dealloc\.") == [plan.tmem_columns]
    # One way out, after the freeing: no role can leave before it.
    assert len(re.findall(r"\b(?:ret|exit);", ptx)) == 1
    assert ptx.index("tcgen05.alloc") < ptx.index("tcgen05.mma") < ptx.index("tcgen05.dealloc") < ptx.index("ret;")
    assert ptx.count("tcgen05.relinquish_alloc_permit") == 1


def test_mmas_have_the_shape_of_the_plan_and_loads_are_waited_for(compiled):
    plan, ptx, spilled = compiled
    group = 2 if plan.pair else 1
    issued = re.findall(r"tcgen05\.mma\.cta_group::(\d)\.kind::f8f6f4\S* \[\S+\], \S+, \S+, (%r\d+)", ptx)
    rows, columns = plan.mma_shape
    every_n = [columns, *([plan.narrow] if plan.narrow else [])]
    assert {int(g) for g, _ in issued} == {group}
    descriptors = [constants(ptx)[register] for _, register in issued]
    found = Counter((16 * (d >> 24 & 31), 8 * (d >> 17 & 63)) for d in descriptors)
    assert found == {(rows, n): 4 * plan.mmas * plan.k_per_stage for n in every_n}
    kinds = {(d >> 4 & 3, d >> 7 & 7, d >> 10 & 7) for d in descriptors}
    assert kinds == {(1, 0, 0)}, "float32 += E4M3 x E4M3"
    loads = re.findall(r"tcgen05\.ld\.sync\.aligned\.16x256b\.x(\d+)\.b32", ptx)
    widths = [plan.width, *([plan.narrow] if plan.narrow else [])]
    wanted = [plan.loaded(width) for width in widths for _ in range(width * plan.subs // plan.loaded(width))]
    assert sorted(8 * int(x) for x in loads) == sorted(wanted)
    assert ptx.count("tcgen05.wait::ld") == len(loads)
    assert spilled == 0


def test_nothing_reads_what_a_load_from_tensor_memory_has_not_brought_yet(compiled):
    _, ptx, _ = compiled
    coming: set[str] = set()
    read_late = 0
    for line in ptx.splitlines():
        registers = re.findall(r"%r\d+", line)
        if "tcgen05.ld." in line:
            coming |= set(registers[:-1])
        elif "tcgen05.wait::ld" in line:
            read_late += len(coming)
            coming = set()
        else:
            assert not coming & set(registers), line
    assert not coming
    assert read_late


def test_promotion_warps_store_nothing_where_they_hand_rows_over(compiled):
    """Their part of the code is the last one, behind the first load from tensor memory."""
    plan, ptx, _ = compiled
    stores = [m.start() for m in re.finditer(r"\b(?:st|red)\.\S*global", ptx)]
    assert stores
    assert all((at < ptx.index("tcgen05.ld.")) == plan.handover for at in stores)


def test_sums_stay_where_they_are_through_a_tile(compiled):
    _, ptx, _ = compiled
    added = re.findall(r"fma\.rn\.f32x2\s+(%rd\d+), %rd\d+, %rd\d+, (%rd\d+);", ptx)
    moved = [f"{into} from {what}" for into, what in added if into != what and ptx.count(f"mov.b64 \t{what}, {into};")]
    assert added
    assert not moved, "a sum has another register at the end of a K block"


def test_copies_are_those_of_the_plan(compiled):
    plan, ptx, _ = compiled
    copies = re.findall(r"cp\.async\.bulk\.tensor\.\S+", ptx)
    gathers = [c for c in copies if "gather4" in c]
    assert len(gathers) == (plan.gather_rows // 4 if plan.gather4 else 0)
    boxes = plan.k_per_stage * (plan.weight_copies + (0 if plan.gather else 1))
    assert len(copies) - len(gathers) == boxes
    assert all(("cta_group::2" in c) == plan.pair for c in copies)
    shared = [len(plan.weight_peers(0)) > 1] * plan.k_per_stage * plan.weight_copies
    shared += [len(plan.token_peers(0)) > 1] * (0 if plan.gather else plan.k_per_stage)
    assert sum("multicast" in c for c in copies) == sum(shared)
    if plan.pair:
        # The leader's barrier counts the bytes of both: its address has the peer's bit cleared.
        assert "-16777224" in ptx


def test_accumulators_lie_in_the_lanes_that_the_plan_reads():
    import cutlass.cute as cute
    import cutlass.utils.blackwell_helpers as sm100
    from cutlass import Float8E4M3FN, Float32
    from cutlass.cute.nvgpu import OperandMajorMode, tcgen05

    found = {}

    @cute.jit
    def layouts():
        major = OperandMajorMode.K
        for group, shape in (("ONE", (64, 64)), ("ONE", (128, 64)), ("TWO", (256, 64))):
            mma = sm100.make_trivial_tiled_mma(
                Float8E4M3FN, Float8E4M3FN, major, major, Float32, getattr(tcgen05.CtaGroup, group), shape
            )
            found[shape] = str(mma.make_fragment_C(mma.partition_shape_C(shape)).layout)

    cute.compile(layouts, options="--gpu-arch sm_100a")
    # Strides in units of a column; a lane is 1 << 16.
    assert found == {
        (64, 64): "(((16,4),64),1,1):(((65536,2097152),1),0,0)",
        (128, 64): "((128,64),1,1):((65536,1),0,0)",
        (256, 64): "((128,64),1,1):((65536,1),0,0)",
    }
