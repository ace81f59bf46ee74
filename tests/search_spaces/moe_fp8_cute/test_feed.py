"""The queue from which GEMM 2 takes its tiles: what neither numbers nor the emulator's order of warps can show."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

from tests.search_spaces.moe_fp8_cute.conftest import CTAS, SMALL
from workers.emulator.ptx import Instruction, Kernel, read


def names(operands) -> set[str]:
    """The registers among operands."""
    return set(re.findall(r"%\w+", str(operands)))


def early_arrivals(kernel: Kernel) -> tuple[list[Instruction], int]:
    """Remote arrivals that may overtake a load of shared memory right before them, and how many do not.

    Right before: no label and no MMA is between, so the word that was loaded is what the arrival gives back.
    """
    wrong, right = [], 0
    labels = set(kernel.labels.values())
    for end, arrival in enumerate(kernel.code):
        if not arrival.opcode.startswith("mbarrier.arrive") or "shared::cluster" not in arrival.opcode:
            continue
        needed = names(arrival.operands)
        for at in range(end - 1, -1, -1):
            one = kernel.code[at]
            if at + 1 in labels or one.parts[0] == "wgmma":
                break
            made = names(one.operands[:1])
            if one.opcode.startswith("ld.shared"):
                if made & needed:
                    right += 1
                else:
                    wrong.append(arrival)
                break
            if made & needed:
                needed |= names(one.operands[1:])
    return wrong, right


def test_nobody_tells_that_a_tile_is_read_before_it_is(build_solution, make_definition):
    """The arrival was no address away from the load: the next claim came in its place, and a cluster hung on a card."""
    config = {
        **{"feed": "tiles", "gather": "beside", "combine": "atomic_f32", "multicast_2": "weights"},
        **{"tile_t_1": 128, "groups_1": 2, "stages_1": 4, "tile_t_2": 128, "groups_2": 2, "stages_2": 4},
    }
    built = build_solution("sm_90a", make_definition(**SMALL), [config], [], ctas=CTAS, keep_ptx=True)
    kernels = [k for path in (built.folder / "artifacts").glob("*.ptx") for k in read(path.read_text()).values()]
    found = [early_arrivals(kernel) for kernel in kernels]
    assert [str(arrival) for wrong, _ in found for arrival in wrong] == []
    # Consumers, the weight warp, the row warp and the warp that claims.
    assert sum(right for _, right in found) >= 4
