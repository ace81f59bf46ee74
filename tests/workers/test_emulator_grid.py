"""Grids of the emulator: each CTA once, with its place along x, y and z; runs come to an end.

The kernels' small inputs give one CTA along y; at a hidden size of 7168 the combine has seven.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from workers.emulator import machine
from workers.emulator.errors import DeadlockError
from workers.emulator.machine import Launch, run
from workers.emulator.memory import GlobalMemory, Region
from workers.emulator.program import Program
from workers.emulator.ptx import read

OUT = 1 << 40
KERNEL = """
.visible .entry places(
	.param .u64 places_param_0
)
{
	.reg .b32 %r<9>;
	.reg .b64 %rd<5>;
	ld.param.b64 %rd1, [places_param_0];
	mov.u32 %r1, %ctaid.x;
	mov.u32 %r2, %ctaid.y;
	mov.u32 %r3, %ctaid.z;
	mov.u32 %r4, %nctaid.x;
	mov.u32 %r5, %nctaid.y;
	mad.lo.s32 %r6, %r3, %r5, %r2;
	mad.lo.s32 %r7, %r6, %r4, %r1;
	mul.wide.u32 %rd2, %r7, 4;
	add.s64 %rd3, %rd1, %rd2;
	add.s32 %r8, %r7, 100;
	st.global.b32 [%rd3], %r8;
	ret;
}
"""


def test_every_cta_of_a_grid_has_its_own_place():
    (kernel,) = read(KERNEL).values()
    found = np.zeros(2 * 3 * 4, np.int32)
    memory = GlobalMemory([Region("out", OUT, found.view(np.uint8))])
    launch = Launch("places", [OUT.to_bytes(8, "little")], (2, 3, 4), 32, 1, 0, False)
    assert launch.ctas == 24
    run(Program(kernel), launch, memory)
    assert found.tolist() == list(range(100, 124))


COUNTS = """
.visible .entry counts(
	.param .u64 counts_param_0
)
{
	.reg .pred %p<2>;
	.reg .b32 %r<4>;
	.reg .b64 %rd<2>;
	ld.param.b64 %rd1, [counts_param_0];
	mov.b32 %r1, 0;
	mov.b32 %r3, 1;
$L__BB0_1:
	ADD
	add.s32 %r1, %r1, STEP;
	setp.lt.s32 %p1, %r1, 300;
	@%p1 bra $L__BB0_1;
	ret;
}
"""
ADD = "red.global.add.u32 [%rd1], %r3;"


@pytest.mark.parametrize(("add", "step", "ends"), [(ADD, 1, True), (ADD, 0, False), ("", 0, False)])
def test_a_long_run_ends_and_an_endless_one_is_told(add, step, ends, monkeypatch):
    """A GEMM at public sizes was called a deadlock, since it took more turns than small ones do."""
    monkeypatch.setattr(machine, "TURNS", 5)
    monkeypatch.setattr(machine, "MOST_TURNS", 90)
    (kernel,) = read(COUNTS.replace("ADD", add).replace("STEP", str(step))).values()
    found = np.zeros(1, np.int32)
    memory = GlobalMemory([Region("out", OUT, found.view(np.uint8))])
    launch = Launch("counts", [OUT.to_bytes(8, "little")], (1, 1, 1), 32, 1, 0, False)
    with contextlib.nullcontext() if ends else pytest.raises(DeadlockError, match="no end"):
        run(Program(kernel), launch, memory)
    assert not ends or found[0] == 32 * 300
