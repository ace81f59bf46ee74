"""The reader of SASS: which loops are main loops, and whether they touch local memory; the table made of it."""

import pytest

from benchmarks.blackwell_static import sass
from benchmarks.blackwell_static.epilogue import Tile, parts, walked
from benchmarks.blackwell_static.table import summary, table

SASS = """
        /*0000*/                   LDC R1, c[0x0][0x37c] ;
        /*0010*/                   STL [R1], R4 ;
.L_x_1:
        /*0020*/                   UTMALDG.3D.2CTA [UR8], [UR22], desc[URZ] ;
        /*0030*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R3 ;
        /*0040*/              @!P0 BRA `(.L_x_9) ;
.L_x_2:
        /*0050*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0060*/                   BRA.U !UP0, `(.L_x_1) ;
        /*0070*/                   LDL R5, [R1] ;
.L_x_3:
        /*0080*/                   LDL R4, [R1] ;
.L_x_4:
        /*0090*/                   LDTM.16dp256bit.x8 R4, tmem[UR9] ;
        /*00a0*/                   {local} ;
        /*00b0*/               @P1 BRA `(.L_x_4) ;
        /*00c0*/                   FFMA2 R4, R4, R6, R8 ;
        /*00d0*/               @P2 BRA `(.L_x_3) ;
        /*00e0*/                   EXIT ;
.L_x_9:
        /*00f0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R3 ;
        /*0100*/              @!P0 BRA `(.L_x_9) ;
        /*0110*/                   BRA `(.L_x_2) ;
"""


def test_innermost_loops_with_work_are_main_loops():
    loops = sass.main_loops(SASS.replace("{local}", "NOP"))
    assert {frozenset(loop) for loop in loops} == {
        frozenset({"LDTM.16dp256bit.x8", "NOP", "BRA"}),
        frozenset({"UTMALDG.3D.2CTA", "SYNCS.PHASECHK.TRANS64.TRYWAIT", "BRA", "IADD3", "BRA.U"}),
    }


def test_local_memory_counts_only_inside_main_loops():
    assert sass.local_in_main_loops(SASS.replace("{local}", "NOP")) == 0
    assert sass.local_in_main_loops(SASS.replace("{local}", "STL [R1], R9")) == 1
    assert sass.counts(SASS.replace("{local}", "NOP"))["LDL"] == 2


def test_table_has_a_line_per_kind_of_gemm():
    gemm = {"registers": 168, "spill_bytes": 0, "local_in_main_loops": 0, "smem_bytes": 1000, "tmem_columns": 64}
    gemm |= {"sass": {"UTCQMMA.2CTA": 4, "UTMALDG.2D.GATHER4": 8, "UTMALDG.3D": 1, "LDTM.16": 2}}
    config = {"swap_1": True, "mma_m_1": 256, "swap_2": False, "mma_m_2": 64}
    other = {**gemm, "smem_bytes": 2000, "spill_bytes": 8}
    built = {"config": config, "status": "BUILT", "cpu_s": 2.0}
    first, second = {"launch": "moe_gemm_1", "stages": 4}, {"launch": "moe_gemm_2", "stages": 3}
    results = [{**built, "gemms": [{**g, **first}, {**gemm, **second}]} for g in (gemm, other)]
    results.append({"config": config, "status": "Rejected", "cpu_s": 1.0, "gemms": []})
    lines = table(results).splitlines()
    assert len(lines) == 4
    assert lines[2] == "| 1, swapped, 256 | 2 | 168 | 0 to 8 | 0 | 1,000 to 2,000 | 64 | 4 | 4 (4) | 9 (0, 8) | 2 |"
    assert summary(results)["status"] == {"BUILT": 2, "Rejected": 1}
    assert summary(results)["gemms_that_spill"] == 1


def test_a_walk_waits_for_the_scoreboard_that_an_instruction_names():
    def control(stall: int, sets: int = 7, waits: int = 0) -> int:
        return stall << 41 | sets << 46 | 7 << 49 | waits << 52

    load, use = ("LDS", "", control(2, sets=1)), ("FMUL", "", control(4, waits=1 << 1))
    arrive = ("SYNCS.ARRIVE.TRANS64.A1T0", "", control(1))
    assert walked([load, use, arrive]) == (37, 36)
    assert walked([load, ("FMUL", "", control(4)), arrive]) == (7, 6)


def test_between_two_tiles_lies_what_the_loop_over_k_blocks_leaves_out():
    block, between = parts(SASS.replace("{local}", "NOP"))
    assert [opcode for opcode, _, _ in block] == ["LDTM.16dp256bit.x8", "NOP", "BRA"]
    assert [opcode for opcode, _, _ in between] == ["FFMA2", "BRA", "LDL"]


@pytest.mark.parametrize(
    ("between", "accumulators", "load", "period"),
    [
        (0, 2, 100, 16 * 512),  # the MMAs never wait
        (4000, 2, 900, 16 * 900),  # the memory is slower, and the stages keep it busy meanwhile
        (1000, 4, 100, 16 * 512),  # four accumulators are longer than this epilogue
        # after the last MMA: its promotion, the epilogue, and the first hand-back before a third accumulator is free
        (2000, 2, 100, 16 * 512 + 400 + 2000 + 300 - 2 * 512),
    ],
)
def test_an_epilogue_costs_what_accumulators_and_stages_do_not_hide(between, accumulators, load, period):
    tile = Tile(16, 10, accumulators, load, 512, 300, 400, between)
    assert tile.period() == pytest.approx(period, abs=1)
