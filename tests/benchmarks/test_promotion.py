"""The promotion loop is found in SASS, and counted."""

from __future__ import annotations

import pytest

from benchmarks.blackwell_static.promotion import figures, gemms, loops_of
from benchmarks.blackwell_static.sample import PACKAGE, TARGET, compile_one, main_definition, stage
from benchmarks.blackwell_static.sass import disassembler
from search_spaces.moe_fp8.reading import POWER_OF_TWO
from search_spaces.moe_fp8_cute.space import FAMILY

TOLERATED_SPILL_BYTES = 64
"""As in solution/build.py, which needs CuTe to be imported."""

SASS = """
.L_x_1:
        /*0000*/  SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2 ;  /* 0x00000000000075a7 */
                                                                  /* 0x000e640008000000 */
.L_x_2:
        /*0010*/  LDTM.16dp256bit.x8 R4, tmem[UR9] ;              /* 0x00000009000479ee */
                                                                  /* 0x000e220008120000 */
        /*0020*/  NOP ;                                           /* 0x0000000000007918 */
                                                                  /* 0x001fe20000000000 */
        /*0030*/  @!P1 SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR9], RZ ;  /* 0x000000ffffff99a7 */
                                                                  /* 0x0001e200081000ff */
        /*0040*/  FFMA2 R8, R4.F32x2.HI_LO, R2.F32, R8 ;          /* 0x0000000204087249 */
                                                                  /* 0x000fe40000000008 */
        /*0050*/  IMAD.MOV.U32 R9, RZ, RZ, R8 ;                   /* 0x000000ffff097224 */
                                                                  /* 0x000fe200078e0008 */
        /*0060*/  UMOV UR4, 0x400 ;                               /* 0x0000040000047882 */
                                                                  /* 0x000fe20000000000 */
        /*0070*/  @P2 BRA `(.L_x_2) ;                             /* 0xfffffffc00e82947 */
                                                                  /* 0x000fea000383ffff */
.L_x_3:
        /*0080*/  BRA `(.L_x_3) ;                                 /* 0xfffffffc00fc7947 */
                                                                  /* 0x000fc0000383ffff */
"""


def test_a_loop_is_counted_from_its_label_to_its_branch():
    """Moves between registers cost issue slots; those of uniform registers are another pipe's."""
    (loop,) = loops_of(SASS)
    assert figures(loop) == {
        **{"instructions": 7, "loads": 1, "moves": 1, "packed_fma": 1, "local": 0},
        **{"last_load": 0, "handed_back": 2, "stall_cycles": 1 + 1 + 1 + 2 + 1 + 1 + 5},
    }


def test_every_loop_around_loads_is_found_the_longest_first():
    """Tiles of few rows have a loop of their own, which must not be counted with that of full ones."""
    few = SASS.replace("L_x_2", "L_x_5").replace("L_x_3", "L_x_6").replace("L_x_1", "L_x_4")
    few = "\n".join(line for line in few.splitlines() if "FFMA2" not in line)
    assert [figures(loop)["packed_fma"] for loop in loops_of(few + SASS)] == [1, 0]


@pytest.fixture
def sass():
    """Skips where nothing can be compiled, or read once it is."""
    pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")
    try:
        disassembler()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("sass")
def test_configs_are_built_and_their_loops_found(tmp_path):
    """Both benchmarks called a function of the build that there was no longer."""
    space = FAMILY.space(main_definition(), TARGET)
    stage(space, tmp_path)
    few = {**space.default, **{"swap_1": True, "tile_t_1": 32, "swap_2": True, "tile_t_2": 32, "narrow": 16}}
    assert {launch: len(loops) for launch, loops in gemms(tmp_path / PACKAGE, few)} == {
        "moe_gemm_1": 2,
        "moe_gemm_2": 2,
    }
    found = compile_one((str(tmp_path), space.default))
    assert (found["status"], len(found["gemms"])) == ("BUILT", 2), found["log"]


@pytest.mark.slow
@pytest.mark.usefixtures("sass")
def test_builds_refuse_no_start(tmp_path):
    """The first start of many rows spilled 68 bytes, in a launch for few rows that is idle at these sizes."""
    space = FAMILY.space({**main_definition(), "tags": [POWER_OF_TWO]}, TARGET)
    stage(space, tmp_path)
    for start in space.starts:
        found = compile_one((str(tmp_path), start.config))
        assert found["status"] == "BUILT", (start.config, found["log"])
        spilled = {gemm["launch"]: gemm["spill_bytes"] for gemm in found["gemms"]}
        assert max(spilled.values()) <= TOLERATED_SPILL_BYTES, (start.config, spilled)
